// Package management tests the management API through Envoy and the sidecar: with requests, with generated clients, and with
// schemathesis.
package management

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/signin"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/harness"
)

// deployment is a stack with a console. Its user Ada owns the workspace acme.
type deployment struct {
	*demo.Stack
	*registry.Registry
	session string // the token of Ada's session
}

// api is the path of the management API.
const api = "/api/keywicket/v1"

func start(t *testing.T) *deployment {
	t.Helper()
	users, err := signin.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = users.Close() })
	environ := users.Environ()
	for _, setting := range environ { // the users sign in to both APIs
		environ = append(environ, strings.Replace(setting, "_VELOCITY_", "_VELAFLOWS_", 1))
		if name, value, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "KEYWICKET_ISSUER_") {
			for _, of := range []string{"VELAFLOWS", "VELOCITY"} {
				environ = append(environ, strings.Replace(name, "ISSUER", "CONSOLE_APIS_"+of, 1)+"="+value)
			}
		}
	}
	d := &deployment{Stack: harness.StartStack(t, demo.Config{Console: true, Environ: environ})}
	d.Registry = storetest.Must(registry.Open(t.Context(), d.DatabaseURL()))
	t.Cleanup(func() { _ = d.Registry.Close() })
	storetest.Must(d.CreateWorkspace(t.Context(), registry.Workspace{Slug: "acme", Name: "Acme"}))
	ada := storetest.Must(d.CreateUser(t.Context(), registry.User{Email: "ada@example.com"}))
	storetest.Must(d.SetMember(t.Context(), "acme", ada.ID, "owner"))
	d.session = storetest.Must(users.Token(ada.ID, "ada-session", time.Hour))
	return d
}

// response is a response to a request through Envoy.
type response struct {
	status int
	header http.Header
	body   map[string]any
	text   string
}

func (r response) of(name string) string {
	text, _ := r.body[name].(string)
	return text
}

// reason returns the reason of an error.
func (r response) reason() string {
	e, _ := r.body["error"].(map[string]any)
	reason, _ := e["reason"].(string)
	return reason
}

// send sends a request to Velocity, in the workspace acme. The parameter `line` is a method and a path.
func (d *deployment) send(t *testing.T, token, line string, body any) response {
	t.Helper()
	return send(t, d.Velocity, line, body, "Authorization", "Bearer "+token, "X-Workspace-Slug", "acme")
}

// send sends a request with headers.
func send(t *testing.T, url, line string, body any, header ...string) response {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(storetest.Must(json.Marshal(body)))
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url+path, content)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "Bearer " {
			r.Header.Set(header[i], header[i+1])
		}
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text := storetest.Must(io.ReadAll(answer.Body))
	got := response{status: answer.StatusCode, header: answer.Header, text: string(text)}
	_ = json.Unmarshal(text, &got.body) // an answer that is no object has no fields
	return got
}
