package oauth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/oauth"
)

// RFC 8414, sections 2 and 3.2; RFC 9207, sections 2.3 and 3: the metadata is correct and complete.
func TestMetadataIsCorrect(t *testing.T) {
	i := newFixture(t)
	read := func(h http.Handler) (m map[string]any) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/.well-known/oauth-authorization-server", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		return m
	}
	m := read(i.Config.Handler)
	for _, name := range []string{"issuer", "authorization_endpoint", "token_endpoint", "response_types_supported"} {
		if m[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	b := i.adaBrowser()
	q := b.do(t, "POST", i.request(), b.do(t, "GET", i.request(), nil).form("deny")).location.Query()
	if m["authorization_response_iss_parameter_supported"] != true || q.Get("iss") != m["issuer"] {
		t.Errorf("the parameter iss of a response is %q, not %v", q.Get("iss"), m["issuer"])
	}
	for name, value := range m {
		address, ok := value.(string)
		if !strings.HasSuffix(name, "_endpoint") {
			continue
		}
		path, prefixed := strings.CutPrefix(address, "https://velocity.quest/")
		if !ok || !prefixed || strings.ContainsAny(address, "?#") {
			t.Errorf("%s is %v", name, value)
		}
		w := httptest.NewRecorder()
		i.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/"+path, nil))
		if w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", address, w.Code)
		}
	}
	for _, method := range []string{"none", "client_secret_basic", "client_secret_post"} { // authentication methods; other tests show that the endpoints accept them
		for _, endpoint := range []string{"token", "revocation", "introspection"} {
			listed := slices.Contains(m[endpoint+"_endpoint_auth_methods_supported"].([]any), any(method))
			if listed != (endpoint != "introspection" || method != "none") {
				t.Errorf("%s at the %s endpoint: %t", method, endpoint, listed)
			}
		}
	}
	for _, scopes := range [][]oauth.Scope{nil, {{Name: "user:read"}}} {
		m := read(must(i.newServer("https://velocity.quest", scopes...)).Handler())
		for name, value := range m {
			if list, ok := value.([]any); value == nil || value == "" || ok && len(list) == 0 {
				t.Errorf("%s is %v", name, value)
			}
		}
		if (m["scopes_supported"] != nil) != (scopes != nil) {
			t.Errorf("%v", m["scopes_supported"])
		}
	}
}

// RFC 8414, section 3.2, defines the status, the content type and the values of the metadata response.
func TestMetadata(t *testing.T) {
	i := newFixture(t)
	answer, err := http.Get(i.URL + "/.well-known/oauth-authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var m map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&m); err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/json" {
		t.Fatal(answer.Status, err)
	}
	for name, want := range map[string]string{
		"issuer": "https://velocity.quest", "authorization_endpoint": "https://velocity.quest/oauth/consent",
		"token_endpoint": "https://velocity.quest/api/oauth/token", "code_challenge_methods_supported": "[S256]",
		"response_types_supported": "[code]", "grant_types_supported": "[authorization_code refresh_token]",
		"authorization_response_iss_parameter_supported": "true",
	} {
		if got := fmt.Sprint(m[name]); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
}

// RFC 9728, sections 3.1 to 3.3: the path of the metadata contains the path of the resource, and the response contains the address of
// exactly this resource.
func TestResourceMetadata(t *testing.T) {
	i := newFixture(t)
	for path, resource := range map[string]string{
		"":                     "https://velocity.quest",
		"/mcp":                 "https://velocity.quest/mcp",
		"/api/issues/7":        "https://velocity.quest/api/issues/7",
		"/a%22b%3C?tenant=x&y": "https://velocity.quest/a%22b%3C?tenant=x&y",
		"/mcp/?a;b":            "https://velocity.quest/mcp/?a;b",
	} {
		answer, err := http.Get(i.URL + "/.well-known/oauth-protected-resource" + path)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Resource string
			Servers  []string `json:"authorization_servers"`
			Methods  []string `json:"bearer_methods_supported"`
			Scopes   []string `json:"scopes_supported"`
		}
		err = json.NewDecoder(answer.Body).Decode(&m)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/json" || m.Resource != resource ||
			!slices.Equal(m.Servers, []string{"https://velocity.quest"}) || !slices.Equal(m.Methods, []string{"header"}) || !slices.Contains(m.Scopes, "issues:read") {
			t.Errorf("%s: %d %v %+v, %v", path, answer.StatusCode, answer.Header, m, err)
		}
	}
	for _, path := range []string{"s", "-x/mcp"} {
		w := httptest.NewRecorder()
		i.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/.well-known/oauth-protected-resource"+path, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	must(i.newServer("https://velocity.quest")).Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/.well-known/oauth-protected-resource", nil))
	if strings.Contains(w.Body.String(), "scopes_supported") { // section 3.2: empty lists are omitted
		t.Error(w.Body)
	}
	if url, err := oauth.ResourceMetadataURL("https://velocity.quest"); err != nil || url != "https://velocity.quest/.well-known/oauth-protected-resource" {
		t.Errorf("%s, %v", url, err)
	}
	if _, err := oauth.ResourceMetadataURL("https://velocity.quest/\""); err == nil {
		t.Error("the invalid URL of an issuer is accepted")
	}
}
