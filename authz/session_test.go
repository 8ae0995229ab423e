package authz_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// sessions returns the same result for each token, and records its calls.
type sessions struct {
	session authz.Session
	aal     string
	denial  authz.Reason
	detail  string
	err     error
	calls   []string
}

func (s *sessions) Verify(_ context.Context, api string, token authz.Secret) (authz.VerifiedSession, error) {
	s.calls = append(s.calls, api+" "+token.Reveal())
	return authz.VerifiedSession{Session: s.session, AAL: s.aal, Denial: s.denial, Detail: s.detail}, s.err
}

const sessionJWT = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"

func configWithSessions(s authz.Sessions) authz.Config {
	c := config()
	velocity := c.APIs["velocity"]
	velocity.Session = authz.SessionFormat{Issuer: "https://auth.example", JWKSURL: "https://auth.example/keys", Scopes: []string{"everything"}}
	c.APIs["velocity"] = velocity
	c.Sessions = s
	return c
}

func TestSessionIsVerifiedAndThenLookedUp(t *testing.T) {
	adasSession := authz.Session{ID: "s1", UserID: "ada", StartedAt: 1_700_000_000}
	found := authz.LookupResult{
		Principal: authz.Principal{ID: "ada", Kind: authz.KindSession, API: "velocity", UserID: "ada", SessionID: "s1"},
		Workspace: authz.Membership{ID: acmeID, Slug: "acme", Role: "owner"},
	}
	for name, c := range map[string]struct {
		sessions  sessions
		directory directory
		want      authz.Reason // empty: allowed
		lookups   int
		wantError bool
	}{
		"valid":                   {sessions: sessions{session: adasSession}, directory: directory{found: found}, lookups: 1},
		"forged":                  {sessions: sessions{denial: authz.ReasonUnknown}, directory: directory{found: found}, want: authz.ReasonUnknown},
		"expired":                 {sessions: sessions{denial: authz.ReasonExpired}, directory: directory{found: found}, want: authz.ReasonExpired},
		"revoked":                 {sessions: sessions{session: adasSession}, directory: directory{found: authz.LookupResult{Denial: authz.ReasonRevoked}}, want: authz.ReasonRevoked, lookups: 1},
		"no keys from the issuer": {sessions: sessions{session: adasSession, err: errors.New("down")}, directory: directory{found: found}, want: authz.ReasonUnavailable, wantError: true},
		"the database is down":    {sessions: sessions{session: adasSession}, directory: directory{found: found, err: errors.New("down")}, want: authz.ReasonUnavailable, lookups: 1, wantError: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &policy{decide: principalsOnly}
			a := newAuthorizer(t, configWithSessions(&c.sessions), &c.directory, p)
			answer, err := a.Check(t.Context(), getRequest("velocity", "/thing", map[string][]string{
				"authorization": {"Bearer " + sessionJWT}, "x-workspace-slug": {"acme"}}))
			if answer.Reason != c.want || answer.Allow != (c.want == "") || (err != nil) != c.wantError || len(c.directory.lookups) != c.lookups {
				t.Fatalf("%+v, %v, %d look-ups", answer, err, len(c.directory.lookups))
			}
			if !slices.Equal(c.sessions.calls, []string{"velocity " + sessionJWT}) {
				t.Errorf("verified: %q", c.sessions.calls)
			}
			if err != nil && strings.Contains(err.Error(), sessionJWT) {
				t.Errorf("the error contains the token: %v", err)
			}
			for _, l := range c.directory.lookups {
				if want := (authz.Lookup{Kind: authz.KindSession, Session: adasSession, API: "velocity", Workspace: authz.WorkspaceRef{Slug: "acme"}}); l != want {
					t.Errorf("looked up: %+v", l)
				}
			}
			if answer.Allow && (!slices.Equal(answer.Principal.Scopes, []string{"everything"}) || answer.Principal.ID != "ada" || answer.Workspace.Role != "owner") {
				t.Errorf("allowed as %+v in %+v", answer.Principal, answer.Workspace)
			}
		})
	}
}

// For an API that accepts sessions, a token is a session token if it has the form of a JWT and no known key prefix.
func TestSessionTokenIsRecognised(t *testing.T) {
	const lookedUpAsKey authz.Reason = "a key" // not a denial: the token is looked up as a key, and not verified as a session
	long := func(n int) string { return "a.b." + strings.Repeat("c", n-4) }
	for token, want := range map[string]authz.Reason{
		sessionJWT:                       "",
		"..":                             "",
		long(8192):                       "",
		long(8193):                       authz.ReasonMalformed,
		"a.b":                            authz.ReasonUnknown,
		"a.b.c.d":                        authz.ReasonUnknown,
		sessionJWT + "=":                 "", // the real verifier refuses this token; the fake verifier of this test accepts it
		"vel_aaaaaaaa.aaaaaaaa.aaaaaaaa": lookedUpAsKey,
	} {
		s, d := &sessions{session: authz.Session{ID: "s"}}, &directory{found: acme}
		answer, err := newAuthorizer(t, configWithSessions(s), d, &policy{decide: principalsOnly}).Check(t.Context(),
			getRequest("velocity", "/thing", map[string][]string{"authorization": {"Bearer " + token}}))
		if want == lookedUpAsKey {
			if err != nil || len(s.calls) != 0 || len(d.lookups) != 1 || d.lookups[0].Digest != authz.Secret(token).Digest() {
				t.Errorf("%s: %+v, %v", token, d.lookups, err)
			}
			continue
		}
		if err != nil || answer.Reason != want || len(s.calls) != len(d.lookups) || (len(s.calls) == 1) != (want == "") {
			t.Errorf("%.20s: %s, %v, %d verifications and %d look-ups", token, answer.Reason, err, len(s.calls), len(d.lookups))
		}
	}
	s := &sessions{}
	answer, err := newAuthorizer(t, configWithSessions(s), &directory{found: acme}, &policy{decide: principalsOnly}).Check(t.Context(),
		getRequest("velaflows", "/thing", withAuthorization("Bearer "+sessionJWT)))
	if err != nil || answer.Reason != authz.ReasonUnknown || len(s.calls) != 0 {
		t.Errorf("an API that accepts no sessions: %s, %v", answer.Reason, err)
	}
	if _, err := authz.New(configWithSessions(nil), &directory{}, &policy{}); err == nil || !strings.Contains(err.Error(), "apis.velocity.session") {
		t.Errorf("without a verifier: %v", err)
	}
}

// A session without the second factor that its API requires is denied, after the directory has returned the user. Policies can
// read the session's assurance level (aal).
func TestSecondFactor(t *testing.T) {
	session := authz.Session{ID: "s1", UserID: "ada", StartedAt: 1}
	for _, c := range []struct {
		require  authz.SecondFactor
		aal      string
		enrolled bool
		denied   bool
	}{
		{"", "aal1", true, false},
		{authz.SecondFactorNever, "aal1", true, false},
		{authz.SecondFactorNever, "", true, false},
		{authz.SecondFactorAlways, "aal1", false, true},
		{authz.SecondFactorAlways, "", false, true},
		{authz.SecondFactorAlways, "AAL2", false, true},
		{authz.SecondFactorAlways, "aal22", false, true},
		{authz.SecondFactorAlways, "aal2", false, false},
		{authz.SecondFactorAlways, "aal3", false, false},
		{authz.SecondFactorEnrolled, "aal1", false, false},
		{authz.SecondFactorEnrolled, "", false, false},
		{authz.SecondFactorEnrolled, "aal1", true, true},
		{authz.SecondFactorEnrolled, "", true, true},
		{authz.SecondFactorEnrolled, "aal2", true, false},
	} {
		d := &directory{found: authz.LookupResult{
			Principal: authz.Principal{ID: "ada", Kind: authz.KindSession, UserID: "ada"}, MFAEnrolled: c.enrolled,
		}}
		p := &policy{decide: principalsOnly}
		config := configWithSessions(&sessions{session: session, aal: c.aal})
		velocity := config.APIs["velocity"]
		velocity.Session.RequireAAL2 = c.require
		config.APIs["velocity"] = velocity
		answer, err := newAuthorizer(t, config, d, p).Check(t.Context(), getRequest("velocity", "/thing", map[string][]string{"authorization": {"Bearer " + sessionJWT}}))
		if err != nil || answer.Allow == c.denied || c.denied && (answer.Reason != authz.ReasonSecondFactorRequired || answer.Principal != nil) {
			t.Errorf("%+v: %+v, %v", c, answer, err)
		}
		if in := p.inputs[len(p.inputs)-1]; !c.denied && in.Principal.AAL != c.aal || c.denied && in.Denial != authz.ReasonSecondFactorRequired {
			t.Errorf("%+v: the policy read %+v", c, in)
		}
		if len(d.lookups) != 1 {
			t.Errorf("%+v: %d look-ups", c, len(d.lookups))
		}
	}
	for _, invalid := range []authz.SecondFactor{"sometimes", "Always", "true"} {
		config := configWithSessions(&sessions{})
		velocity := config.APIs["velocity"]
		velocity.Session.RequireAAL2 = invalid
		config.APIs["velocity"] = velocity
		_, err := authz.New(config, &directory{}, &policy{})
		if err == nil || !strings.Contains(err.Error(), "require_aal2: ") || !strings.Contains(err.Error(), "never, always, enrolled") {
			t.Errorf("%s: %v", invalid, err)
		}
	}
}

// The answer contains the detail that the verifier sets.
func TestDenialDetailIsKept(t *testing.T) {
	s := &sessions{denial: authz.ReasonUnsupportedAlgorithm, detail: "HS512"}
	answer, err := newAuthorizer(t, configWithSessions(s), &directory{}, &policy{decide: principalsOnly}).
		Check(t.Context(), getRequest("velocity", "/thing", map[string][]string{"authorization": {"Bearer " + sessionJWT}}))
	if err != nil || answer.Reason != authz.ReasonUnsupportedAlgorithm || answer.Detail != "HS512" {
		t.Errorf("%+v, %v", answer, err)
	}
}

// With console_only, an API accepts sessions only on the paths of the console, as the policies read them. On every other path, the
// answer is the answer of an API without sessions.
func TestSessionForTheConsoleOnly(t *testing.T) {
	found := authz.LookupResult{Principal: authz.Principal{ID: "ada", Kind: authz.KindSession, API: "velocity", UserID: "ada"}}
	check := func(change func(*authz.API), s *sessions, method, path, host string) authz.Answer {
		t.Helper()
		c := configWithSessions(s)
		velocity := c.APIs["velocity"]
		change(&velocity)
		c.APIs["velocity"] = velocity
		c.ResourceMetadata = map[string]string{"velocity": "https://velocity.example/.well-known/oauth-protected-resource"}
		request := getRequest("velocity", path, map[string][]string{"authorization": {"Bearer " + sessionJWT}, "cookie": {"session=" + sessionJWT}})
		request.Method, request.Host = method, host
		answer, err := newAuthorizer(t, c, &directory{found: found}, &policy{decide: principalsOnly}).Check(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		answer.ID = ""
		return answer
	}
	consoleOnly := func(a *authz.API) { a.Session.ConsoleOnly = true }
	withoutSessions := func(a *authz.API) { a.Session.Issuer, a.Session.JWKSURL = "", "" }
	for path, accepted := range map[string]bool{
		"/api/keywicket/v1/tokens":              true,
		"/api/keywicket/v1/tokens/7/rotate?x=y": true,
		"/api/keywicket/v1/":                    true,
		"/api/keywicket/v1/nothing":             true,
		"/api/%6beywicket/v1/tokens":            true, // the same segments
		"/api/keywicket/v1":                     false,
		"/api/keywicket/v10/tokens":             false,
		"/api/keywicket/v2/tokens":              false,
		"/api/keywicket":                        false,
		"/api/Keywicket/v1/tokens":              false,
		"/API/keywicket/v1/tokens":              false,
		"/x/api/keywicket/v1/tokens":            false,
		"/thing":                                false,
		"/":                                     false,
		"/settings":                             false,
		"":                                      false,
		"*":                                     false,
		// These paths are ambiguous: another server could read them as a path of the console, or of the API.
		"/api/keywicket/v1/../../../thing": false,
		"/api/keywicket/v1/%2e%2e/tokens":  false,
		"/api/keywicket%2fv1/tokens":       false,
		"/api/keywicket/v1//tokens":        false,
		"//api/keywicket/v1/tokens":        false,
		"/api/keywicket/v1/tokens;x=y":     false,
		"/api/keywicket/v1/tokens%00":      false,
		"/api/keywicket/v1/%2574okens":     false,
		"/thing?/api/keywicket/v1/tokens":  false,
		"/thing#/api/keywicket/v1/tokens":  false,
	} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "*"} {
			s := &sessions{session: authz.Session{ID: "s1", UserID: "ada"}}
			got := check(consoleOnly, s, method, path, "api.test")
			if got.Allow != accepted || (len(s.calls) > 0) != accepted {
				t.Errorf("%s %s: %+v, %d verifications", method, path, got, len(s.calls))
			}
			if want := check(withoutSessions, s, method, path, "api.test"); !accepted && !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: %+v, but without sessions %+v", method, path, got, want)
			}
			everywhere := check(func(*authz.API) {}, s, method, path, "api.test")
			if accepted && !reflect.DeepEqual(got, everywhere) {
				t.Errorf("%s %s: %+v, but with sessions everywhere %+v", method, path, got, everywhere)
			}
		}
	}
	s := &sessions{session: authz.Session{ID: "s1", UserID: "ada"}}
	if got := check(consoleOnly, s, "GET", "/api/keywicket/v1/tokens", "a.test,b.test"); got.Allow || len(s.calls) > 0 {
		t.Errorf("two hosts: %+v", got)
	}
	if format, denial := configAPI(t, consoleOnly).Recognize(sessionJWT); format.Kind != authz.KindSession || denial != "" {
		t.Errorf("recognized as %+v, %s", format, denial)
	}
}

// configAPI returns the API velocity with sessions and the change.
func configAPI(t *testing.T, change func(*authz.API)) authz.API {
	t.Helper()
	velocity := configWithSessions(&sessions{}).APIs["velocity"]
	change(&velocity)
	velocity, err := velocity.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return velocity
}
