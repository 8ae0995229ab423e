package explain

import (
	"strings"
	"testing"

	explainer "github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/wire"
)

// For each method, explain returns the decision that a client gets through Envoy over HTTP/1.1.
func TestExplainAgreesWithEnvoyAboutMethods(t *testing.T) {
	x := newExplainer(t)
	user, _ := deployment.CreateOwner(t)
	token, key := deployment.CreateToken(t, "velu_", registry.NewToken{Name: t.Name(), Scopes: []string{"user:read"}, User: user})
	for method := range strings.FieldsSeq(`GET POST PUT PATCH DELETE OPTIONS TRACE CONNECT get Get FOO PRI QUERY MSEARCH M-SEARCH ACL
		BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE NOTIFY
		ORDERPATCH PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNCHECKOUT UNLINK UNLOCK UNSUBSCRIBE UPDATE
		UPDATEREDIRECTREF VERSION-CONTROL`) {
		connection := wire.Protocols["HTTP/1.1"](t, deployment.Stack, "velocity")
		sent := connection.Send(t, wire.Request{Method: method, Target: "/api/user", Header: [][2]string{{"authorization", "Bearer " + key}}})
		_ = connection.Close()
		e, err := x.Explain(t.Context(), explainer.Request{Method: method, Path: "/api/user", TokenID: token.ID})
		if err != nil {
			t.Fatal(err)
		}
		outcome := "allow"
		if !e.Allow {
			outcome = *e.Code + " " + *e.Reason
		}
		if !strings.HasSuffix(sent.Outcome, outcome) {
			t.Errorf("%s: a client gets %s; explain: %s", method, sent.Outcome, outcome)
		}
	}
}

func newExplainer(t *testing.T) *explainer.Explainer {
	t.Helper()
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policies.LoadExplainer(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return explainer.New(explainer.Config{APIs: cfg.APIs}, rules, deployment.Registry)
}

// For each path, explain returns the answer that a client gets through Envoy, and the path that the upstream gets.
func TestExplainAgreesWithEnvoy(t *testing.T) {
	x := newExplainer(t)
	user, _ := deployment.CreateOwner(t)
	token, key := deployment.CreateToken(t, "velu_", registry.NewToken{Name: t.Name(), Scopes: []string{"user:read"}, User: user})
	for path, cause := range map[string]string{ // cause: a part of the fix; empty: not checked
		"/api/user":                     "",
		"/api//user":                    "",
		"//api///user":                  "",
		"/api/./user":                   "",
		"/api/x/../user":                "",
		"/api/x/%2e%2E/user":            "",
		"/api/x/..;v=1/user":            "",
		`/api\user`:                     "",
		"/api/us%65r":                   "",
		"/api//user?tab=//../%2F":       "",
		"http://api.test/api//user":     "",
		"/api/user/":                    "use exactly this letter case",
		"/api/user/.":                   "use exactly this letter case",
		"/api//User":                    "use exactly this letter case",
		"/..":                           "add the row",
		"/api/a%2Fb":                    "the path has an escaped slash (%2F) or an escaped backslash (%5C)",
		"/api/%5cuser":                  "the path has an escaped slash (%2F) or an escaped backslash (%5C)",
		"/api/user%00":                  "the path has an escaped NUL (%00)",
		"/api/user#top":                 "the path has a # that is not escaped",
		"/api/user?a#top":               "the path has a # that is not escaped",
		"/api/caf\u00e9":                "a character that is not ASCII",
		"api/user":                      "the path does not start with a /",
		"":                              "the path does not start with a /",
		"/api/%2575ser":                 `the path is escaped twice (in the segment "%2575ser")`,
		"/api/%%375ser":                 `the path is escaped twice (in the segment "%2575ser")`,
		"/api/user%":                    `the path has a % that is not followed by two hexadecimal digits (in the segment "user%")`,
		"/api/a%0Ab":                    `the path has an escaped control character (in the segment "a%0Ab")`,
		"/api/a%C2%85b":                 `the path has an escaped control character (in the segment "a%C2%85b")`,
		"/api/a%FF":                     `the path does not decode to UTF-8 (in the segment "a%FF")`,
		"/api/[a]":                      `the path has a character that must be escaped (in the segment "[a]")`,
		"/api/%2e%2e;x/user":            `the path has a segment that some servers read as a dot segment (in the segment "..;x")`,
		"/api/..%3Bx/user":              `the path has a segment that some servers read as a dot segment (in the segment "..%3Bx")`,
		"/api/;x":                       `the path has a segment that starts with a ; (in the segment ";x")`,
		"//":                            `the path has an empty segment, so`,
		"/api/user;v=1":                 "parameters.raw_semicolon",
		"/api/100%25":                   `parameters.may_hold: ["%"]`,
		"/.well-known/x/../%7Euser%2F%": "escaped slash",
	} {
		connection := wire.Protocols["HTTP/1.1"](t, deployment.Stack, "velocity")
		sent := connection.Send(t, wire.Request{Target: path, Header: [][2]string{{"authorization", "Bearer " + key}}})
		_ = connection.Close()
		e, err := x.Explain(t.Context(), explainer.Request{Method: "GET", Path: path, TokenID: token.ID})
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		outcome, passed := "allow", path
		if !e.Allow {
			outcome = *e.Code + " " + *e.Reason
		}
		if e.Path != "" {
			passed = e.Path
		}
		if !strings.HasSuffix(sent.Outcome, outcome) || e.Allow && passed != sent.Echo.Path {
			t.Errorf("%q: a client gets %s, %q; explain: %s, %q", path, sent.Outcome, sent.Echo.Path, outcome, passed)
		}
		if changed := e.Path != ""; changed && !strings.Contains(e.Text(), "\npath      "+e.Path+" (Envoy changes the path)\n") {
			t.Errorf("%q: the text is %s", path, e.Text())
		}
		if (e.Fix == "") != e.Allow || !strings.Contains(e.Fix, cause) {
			t.Errorf("%q: the fix is %q, not %s", path, e.Fix, cause)
		}
	}
}
