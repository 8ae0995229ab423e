package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/store/issuer"
)

// The server accepts the JSON requests that Velocity's API documentation shows.
func TestTokenEndpointAcceptsJSON(t *testing.T) {
	i := newFixture(t)
	body := string(must(json.Marshal(i.exchangeForm(t, i.public))))
	r := i.post(t, "/api/oauth/token", "application/json", body)
	if r.status != http.StatusOK || !strings.HasPrefix(r.text("access_token"), "velo_") || r.text("token_type") != "Bearer" ||
		r.body["expires_in"] != 3600.0 || r.text("refresh_token") == "" || r.text("scope") != "issues:read issues:write" {
		t.Fatalf("%+v", r)
	}
	refresh := fmt.Sprintf(`{"grant_type": "refresh_token", "refresh_token": %q, "client_id": %q}`, r.text("refresh_token"), i.public.ID)
	again := i.post(t, "/api/oauth/token", "application/json; charset=utf-8", refresh)
	if again.status != http.StatusOK || again.text("refresh_token") == r.text("refresh_token") || again.text("access_token") == r.text("access_token") {
		t.Fatalf("%+v", again)
	}
}

// A standard client library works without changes, for public and for confidential apps (RFC 6749, sections 4.1.3 and 6; RFC
// 7636, section 4.5).
func TestStandardClientLibrary(t *testing.T) {
	i := newFixture(t)
	for name, c := range map[string]oauth2.Config{
		"public":                             {ClientID: i.public.ID, Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
		"public, empty secret in the header": {ClientID: i.public.ID, Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInHeader}},
		"public, with a secret":              {ClientID: i.public.ID, ClientSecret: i.publicSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
		"confidential, secret in the header": {ClientID: i.confidential.ID, ClientSecret: i.confidentialSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInHeader}},
		"confidential, secret in the body":   {ClientID: i.confidential.ID, ClientSecret: i.confidentialSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
	} {
		t.Run(name, func(t *testing.T) {
			app := i.public
			if c.ClientID == i.confidential.ID {
				app = i.confidential
			}
			c.RedirectURL, c.Endpoint.TokenURL = callback, i.URL+"/api/oauth/token"
			token, err := c.Exchange(t.Context(), i.code(t, app), oauth2.VerifierOption(verifier))
			if err != nil || !token.Valid() || time.Until(token.Expiry) > time.Hour {
				t.Fatalf("%+v, %v", token, err)
			}
			token.Expiry = time.Now().Add(-time.Minute)
			again, err := c.TokenSource(t.Context(), token).Token()
			if err != nil || again.AccessToken == token.AccessToken || again.RefreshToken == token.RefreshToken {
				t.Fatalf("%+v, %v", again, err)
			}
			_, err = c.TokenSource(t.Context(), token).Token() // the refresh token was already used
			if refused, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refused.ErrorCode != "invalid_grant" {
				t.Errorf("%v", err)
			}
		})
	}
}

// The server answers invalid requests with the error codes of RFC 6749, section 5.2, and issues no token.
func TestTokenRequestsAreRefused(t *testing.T) {
	i := newFixture(t)
	stranger, _ := i.app(t, false)
	exchange := func(name, value string) form { return i.exchangeForm(t, i.public).withValue(name, value) }
	refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")}
	confidential := i.exchangeForm(t, i.confidential)
	confidentialTokens := i.send(t, "/api/oauth/token", i.exchangeForm(t, i.confidential).withValue("client_secret", i.confidentialSecret.Reveal()))
	refreshConfidential := form{"grant_type": "refresh_token", "client_id": i.confidential.ID, "refresh_token": confidentialTokens.text("refresh_token")}
	for name, c := range map[string]struct {
		request form
		want    string
		status  int
	}{
		"no grant type":                                     {exchange("grant_type", ""), "invalid_request", 400},
		"another grant type":                                {exchange("grant_type", "password"), "unsupported_grant_type", 400},
		"no client":                                         {exchange("client_id", ""), "invalid_request", 400},
		"an unknown client":                                 {exchange("client_id", "nobody"), "invalid_client", 401},
		"a wrong secret":                                    {exchange("client_secret", "guessed"), "invalid_client", 401},
		"a confidential app, without a secret":              {confidential, "invalid_client", 401},
		"an app of another API":                             {exchange("client_id", i.appOfOtherAPI(t).ID), "invalid_client", 401},
		"another app's secret":                              {confidential.withValue("client_secret", i.publicSecret.Reveal()), "invalid_client", 401},
		"no code":                                           {exchange("code", ""), "invalid_request", 400},
		"an unknown code":                                   {exchange("code", "made-up"), "invalid_grant", 400},
		"another app's code":                                {exchange("client_id", stranger.ID), "invalid_grant", 400},
		"no redirect URI":                                   {exchange("redirect_uri", ""), "invalid_request", 400},
		"another redirect URI":                              {exchange("redirect_uri", callback+"/"), "invalid_grant", 400},
		"no verifier":                                       {exchange("code_verifier", ""), "invalid_request", 400},
		"another verifier":                                  {exchange("code_verifier", strings.Repeat("v", 43)), "invalid_grant", 400},
		"a short verifier":                                  {exchange("code_verifier", verifier[:42]), "invalid_grant", 400},
		"the challenge as the verifier":                     {exchange("code_verifier", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), "invalid_grant", 400},
		"a control character":                               {exchange("code", "a\x00b"), "invalid_request", 400},
		"no refresh token":                                  {refresh.withValue("refresh_token", ""), "invalid_request", 400},
		"an unknown refresh token":                          {refresh.withValue("refresh_token", "made-up"), "invalid_grant", 400},
		"another app's refresh token":                       {refresh.withValue("client_id", stranger.ID), "invalid_grant", 400},
		"an access token":                                   {refresh.withValue("refresh_token", i.tokens(t).text("access_token")), "invalid_grant", 400},
		"a scope that was not granted":                      {refresh.withValue("scope", "issues:read documents:read"), "invalid_scope", 400},
		"a scope with a capital letter":                     {refresh.withValue("scope", "Issues:read"), "invalid_scope", 400},
		"a refresh by a public app, with a wrong secret":    {refresh.withValue("client_secret", "guessed"), "invalid_client", 401},
		"a refresh by a confidential app, without a secret": {refreshConfidential, "invalid_client", 401},
		"a refresh by a confidential app, with a wrong secret":      {refreshConfidential.withValue("client_secret", "guessed"), "invalid_client", 401},
		"a refresh by a confidential app, with another app's token": {refreshConfidential.withValue("refresh_token", refresh["refresh_token"]).withValue("client_secret", i.confidentialSecret.Reveal()), "invalid_grant", 400},
	} {
		r := i.send(t, "/api/oauth/token", c.request)
		if r.status != c.status || r.text("error") != c.want || r.body["access_token"] != nil {
			t.Errorf("%s: %+v", name, r)
		}
		if challenged := r.header.Get("WWW-Authenticate") == `Basic realm="keywicket"`; challenged != (c.status == 401) {
			t.Errorf("%s: the challenge %q", name, r.header.Get("WWW-Authenticate"))
		}
	}
	if r := i.send(t, "/api/oauth/token", refresh); r.status != http.StatusOK { // the refresh token is still unused
		t.Errorf("%+v", r)
	}
	text := "grant_type=authorization_code&client_id=" + i.public.ID
	const formType, jsonType = "application/x-www-form-urlencoded", "application/json"
	for name, c := range map[string]struct{ contentType, body string }{
		"a parameter twice":          {formType, text + "&client_id=" + i.public.ID},
		"a parameter twice, in JSON": {jsonType, `{"client_id": "a", "client_id": "b"}`},
		"an invalid form":            {formType, text + "&code=%zz"},
		"invalid JSON":               {jsonType, `{`},
		"a JSON list":                {jsonType, `["client_id"]`},
		"a JSON number as a value":   {jsonType, `{"client_id": 1}`},
		"a JSON object as a value":   {jsonType, `{"client_id": {"$ne": ""}}`},
		"invalid UTF-8":              {formType, text + "&code=%ff"},
		"a body that is too long":    {formType, text + "&code=" + strings.Repeat("x", 17<<10)},
		"another content type":       {"text/plain", text},
		"no content type":            {"", text},
		"an invalid content type":    {"application/", text},
	} {
		if r := i.post(t, "/api/oauth/token", c.contentType, c.body); r.status != 400 || r.text("error") != "invalid_request" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, header := range map[string][]string{
		"wrong":         {"Authorization", basic(i.confidential.ID, "guessed")},
		"zero byte":     {"Authorization", basic("%00", "x")},
		"not UTF-8":     {"Authorization", basic("%ff", "x")},
		"unknown":       {"Authorization", basic("nobody", "x")},
		"empty secret":  {"Authorization", basic(i.confidential.ID, "")},
		"empty id":      {"Authorization", basic("", i.confidentialSecret.Reveal())},
		"empty":         {"Authorization", basic("", "")},
		"no colon":      {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(i.public.ID))},
		"not Basic":     {"Authorization", "Bearer x"},
		"not decodable": {"Authorization", basic("%zz", "x")},
	} {
		r := i.send(t, "/api/oauth/token", i.exchangeForm(t, i.confidential).withValue("client_id", ""), header...)
		if r.status != 401 || r.text("error") != "invalid_client" || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("Basic, %s: %+v", name, r)
		}
	}
	credentials := basic(i.confidential.ID, i.confidentialSecret.Reveal())
	for name, c := range map[string]struct {
		request form
		header  []string
	}{
		"two secrets": {i.exchangeForm(t, i.confidential).withValue("client_secret", i.confidentialSecret.Reveal()), []string{"Authorization", credentials}},
		"two clients": {i.exchangeForm(t, i.confidential).withValue("client_id", i.public.ID), []string{"Authorization", credentials}},
		"two headers": {i.exchangeForm(t, i.confidential), []string{"Authorization", credentials, "Authorization", credentials}},
	} {
		if r := i.send(t, "/api/oauth/token", c.request, c.header...); r.status != 400 || r.text("error") != "invalid_request" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if text := i.log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
		t.Errorf("the log has errors or warnings: %s", text)
	}
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// A refresh request can ask for fewer scopes. The smaller set applies only to the new access token (RFC 6749, section 6).
func TestRefreshCanReduceScopes(t *testing.T) {
	i := newFixture(t)
	first := i.tokens(t)
	refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": first.text("refresh_token"), "scope": "issues:read issues:read"}
	reduced := i.send(t, "/api/oauth/token", refresh)
	if reduced.status != http.StatusOK || reduced.text("scope") != "issues:read" {
		t.Fatalf("%+v", reduced)
	}
	whole := i.send(t, "/api/oauth/token", refresh.withValue("refresh_token", reduced.text("refresh_token")).withValue("scope", ""))
	if whole.text("scope") != "issues:read issues:write" {
		t.Errorf("%+v", whole)
	}
}

// Of twenty concurrent requests with the same code or refresh token, one succeeds. The other requests revoke the tokens that the
// successful request received (RFC 6749, section 4.1.2; RFC 9700, section 4.14.2). Within a reuse window, all requests with the same
// refresh token succeed, and nothing is revoked. A code is always accepted only once.
func TestRacesHaveOneWinner(t *testing.T) {
	for _, window := range []time.Duration{0, 10 * time.Second} {
		i := newFixture(t, func(c *oauth.Config) { c.ReuseWindow = window })
		for name, c := range map[string]struct {
			request form
			winners int
		}{
			"code": {i.exchangeForm(t, i.public), 1},
			"refresh token": {
				form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")},
				map[bool]int{false: 1, true: 20}[window > 0],
			},
		} {
			var mu sync.Mutex
			var issued []response
			var requests sync.WaitGroup
			for range 20 {
				requests.Go(func() {
					r := i.send(t, "/api/oauth/token", c.request)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case r.status == http.StatusOK:
						issued = append(issued, r)
					case r.text("error") != "invalid_grant":
						t.Errorf("%+v", r)
					}
				})
			}
			requests.Wait()
			if len(issued) != c.winners {
				t.Errorf("window %v: a %s was accepted %d times", window, name, len(issued))
			}
			for _, r := range issued {
				if _, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token"))); errors.Is(err, issuer.ErrGrant) != (c.winners == 1) {
					t.Errorf("window %v, %s: the issued access token: %v", window, name, err)
				}
			}
		}
	}
}

// Two tabs of an app use the same refresh token within the reuse window. Both get tokens and go on. The log and the outcome differ
// from the outcome of a use that revokes the grant. A later use, or a use by another app, revokes the grant of both tabs.
func TestSecondTabGoesOn(t *testing.T) {
	for name, end := range map[string]func(*fixture, form) form{
		"later": func(i *fixture, refresh form) form {
			must(i.db.Exec(`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at - interval '10 seconds'`))
			return refresh
		},
		"another app": func(i *fixture, refresh form) form {
			stranger, _ := i.app(t, false)
			return refresh.withValue("client_id", stranger.ID)
		},
	} {
		outcomes := map[string]int{}
		i := newFixture(t, func(c *oauth.Config) {
			c.ReuseWindow = 10 * time.Second
			c.Observe = func(endpoint, outcome string) { outcomes[endpoint+" "+outcome]++ }
		})
		refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")}
		one, other := i.send(t, "/api/oauth/token", refresh), i.send(t, "/api/oauth/token", refresh.withValue("scope", "issues:read"))
		if one.status != http.StatusOK || other.status != http.StatusOK || one.text("refresh_token") == other.text("refresh_token") || other.text("scope") != "issues:read" {
			t.Fatalf("%s: %+v, %+v", name, one, other)
		}
		if r := i.send(t, "/api/oauth/token", refresh.withValue("scope", "documents:read")); r.text("error") != "invalid_scope" {
			t.Errorf("%s: %+v", name, r)
		}
		if log := i.log.String(); outcomes["token repeated"] != 1 || outcomes["token reused"] != 0 || strings.Contains(log, "level=WARN") ||
			!strings.Contains(log, `level=INFO msg="a refresh token was used again within issuer.reuse_window`) {
			t.Errorf("%s: %v, %s", name, outcomes, log)
		}
		if r := i.send(t, "/api/oauth/token", end(i, refresh)); r.text("error") != "invalid_grant" || outcomes["token reused"] != 1 {
			t.Errorf("%s: %+v, %v", name, r, outcomes)
		}
		for _, r := range []response{one, other} {
			if _, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token"))); !errors.Is(err, issuer.ErrGrant) {
				t.Errorf("%s: an access token is still active: %v", name, err)
			}
		}
		if !strings.Contains(i.log.String(), "level=WARN") {
			t.Errorf("%s: the log has no warning", name)
		}
	}
}

// A request takes effect even if the client disconnects: the second use of a refresh token revokes the grant.
func TestClientDisconnectDoesNotRollBack(t *testing.T) {
	i := newFixture(t)
	for range 5 {
		first := i.tokens(t)
		refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": first.text("refresh_token")}
		second := i.send(t, "/api/oauth/token", refresh)
		conn := must(net.Dial("tcp", i.Listener.Addr().String()))
		body := url.Values{"grant_type": {"refresh_token"}, "client_id": {i.public.ID}, "refresh_token": {first.text("refresh_token")}}.Encode()
		_, err := fmt.Fprintf(conn, "POST /api/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if err := errors.Join(err, conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			if _, err := i.Introspect(t.Context(), authz.Secret(second.text("access_token"))); errors.Is(err, issuer.ErrGrant) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the grant is not revoked")
			}
		}
	}
}
