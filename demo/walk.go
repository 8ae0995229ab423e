package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keywicket/keywicket/demo/example"
)

// The demo's app and its authorization request come from the example in Velocity's API document. Only the redirect URI differs. The
// verifier is the example of RFC 7636, appendix B.
const (
	clientID  = "your_client_id"
	callback  = "http://127.0.0.1:9999/callback"
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func (d *Demo) authorizeURL() string {
	return d.Velocity + "/oauth/consent?" + url.Values{
		"client_id": {clientID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"issues:read issues:write"},
		"state": {"random_state"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}.Encode()
}

// walkOAuth runs the whole OAuth flow through Envoy, as the user's browser and as the app. It calls the function line for each step
// of the flow, to add the step to the tour.
func (d *Demo) walkOAuth(ctx context.Context, line func(request, who, workspace, want, seen, why string)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ada := NewUser("ada@example.com")
	address, err := url.Parse(d.authorizeURL())
	if err != nil {
		return err
	}
	p, err := ada.open(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	line("GET /oauth/consent", "", "", "303 sign in", statusAndText(p.status, p.next != nil && p.next.Path == "/login", "sign in"), "an app sends Ada to the consent page")
	if p, err = ada.openRequest(ctx, address.String()); err != nil {
		return err
	}
	line("GET /oauth/consent", "", "", "200 Allow Planner", statusAndText(p.status, strings.Contains(p.text, "Allow <bdi>Planner</bdi> to act"), "Allow Planner"), "after the sign-in, Ada is asked")
	if p, err = ada.submit(ctx, p, "decision", "approve", p.workspaces([]string{"Your workspace"})...); err != nil {
		return err
	}
	code := ""
	if p.next != nil {
		code = p.next.Query().Get("code")
	}
	line("POST /oauth/consent", "", example.YourSlug, "303 code", statusAndText(p.status, code != "", "code"), "Ada allows it, in one workspace")

	token := func(why, want string, parameters map[string]string) (tokens, error) {
		t, err := d.token(ctx, parameters)
		line("POST /api/oauth/token", "", "", want, statusAndText(t.status, true, t.Scope+t.Error), why)
		return t, err
	}
	// call repeats the request for up to two seconds, because a revocation takes effect only within the staleness bound (1 s).
	call := func(request, workspace, want, why string, t tokens) error {
		s := example.Request{API: "velocity", Line: request, Workspace: workspace, Want: want}
		for deadline := time.Now().Add(2 * time.Second); ; {
			seen, err := d.send(ctx, s, t.Access)
			if err != nil {
				return err
			}
			if seen == want || time.Now().After(deadline) {
				line(request, "the app's", workspace, want, seen, why)
				return nil
			}
		}
	}
	exchange := map[string]string{
		"grant_type": "authorization_code", "code": code, "redirect_uri": callback, "client_id": clientID, "code_verifier": verifier}
	first, err := token("the app gets tokens for the code", "200 issues:read issues:write", exchange)
	if err == nil {
		err = call("GET /api/issues", "", "200 live", "the app acts for Ada in that workspace", first)
	}
	if err == nil {
		err = call("GET /api/issues", example.TargetSlug, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "but not in another workspace", first)
	}
	if err == nil {
		err = call("POST /api/projects", "", "403 FORBIDDEN missing_scope", "Ada did not grant this scope", first)
	}
	if err != nil {
		return err
	}
	refresh := map[string]string{"grant_type": "refresh_token", "refresh_token": first.Refresh, "client_id": clientID}
	second, err := token("the app refreshes its tokens", "200 issues:read issues:write", refresh)
	if err == nil {
		err = call("GET /api/issues", "", "200 live", "the new access token works", second)
	}
	if err == nil {
		_, err = token("the code is used a second time", "400 invalid_grant", exchange)
	}
	if err == nil {
		err = call("GET /api/issues", "", "401 UNAUTHORIZED revoked", "the second use has revoked the grant", second)
	}
	return err
}

// statusAndText returns the status, followed by the text if found is true.
func statusAndText(status int, found bool, text string) string {
	if !found {
		text = ""
	}
	return strings.TrimSpace(fmt.Sprint(status, " ", text))
}

// tokens is a response of the token endpoint.
type tokens struct {
	status  int
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Scope   string
	Error   string
}

// token sends a token request in JSON, as in the API's document.
func (d *Demo) token(ctx context.Context, parameters map[string]string) (t tokens, err error) {
	body, err := json.Marshal(parameters)
	if err != nil {
		return t, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Velocity+"/api/oauth/token", bytes.NewReader(body))
	if err != nil {
		return t, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return t, err
	}
	defer func() { _ = response.Body.Close() }()
	t.status = response.StatusCode
	return t, json.NewDecoder(response.Body).Decode(&t)
}

// curlFlow returns the OAuth flow as shell commands.
func (d *Demo) curlFlow() string {
	const post = "curl -s %s/api/oauth/token -H 'Content-Type: application/json' -d '%s'"
	exchange := fmt.Sprintf(post, d.Velocity, `{"grant_type": "authorization_code", "code": "'$CODE'", "redirect_uri": "`+callback+
		`", "client_id": "`+clientID+`", "code_verifier": "`+verifier+`"}`)
	refresh := fmt.Sprintf(post, d.Velocity, `{"grant_type": "refresh_token", "refresh_token": "'$REFRESH_TOKEN'", "client_id": "`+clientID+`"}`)
	return fmt.Sprintf(`
OAuth 2.0, step by step. Open this URL in a browser, sign in, choose a workspace, and allow the request. The browser is then
redirected to the app's address, where no server listens. Copy the code from that address within a minute.

  %s

  CODE=
  TOKENS=$(%s); echo $TOKENS
  ACCESS_TOKEN=$(echo $TOKENS | sed 's/.*"access_token":"//; s/".*//')
  curl -i %s/api/issues -H "Authorization: Bearer $ACCESS_TOKEN"
  REFRESH_TOKEN=$(echo $TOKENS | sed 's/.*"refresh_token":"//; s/".*//')
  TOKENS=$(%s); echo $TOKENS
  curl -i %s/api/oauth/revoke -d client_id=%s -d token=$REFRESH_TOKEN

Or run an app that does all of this:

  go run ./demo/oauth-client -issuer %[3]s
`, d.authorizeURL(), exchange, d.Velocity, refresh, d.Velocity, clientID)
}
