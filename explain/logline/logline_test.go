package logline_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/explain/envoypath"
	"github.com/keywicket/keywicket/explain/logline"
)

func TestRequestOfALine(t *testing.T) {
	for fields, want := range map[string]explain.Request{
		`"route":"GET /a/{b}/c","allow":true,"subject":"t1","kind":"workspace_key","workspace_id":"w1"`: {Path: "/a/x/c", TokenID: "t1", Workspace: "w1"},
		`"route":"GET /a/{b}.json","allow":true,"subject":"t2","kind":"oauth_token"`:                    {Path: "/a/x.json", TokenID: "t2"},
		`"route":"* /a/{b...}","allow":true,"subject":"ada","kind":"session","session_id":"s1"`:         {Path: "/a/x/x", User: "ada"},
		`"route":"GET /caf%C3%A9/100%25/a b","reason":"missing"`:                                        {},
		`"route":"GET /caf%C3%A9/a%3Ab/","reason":"missing"`:                                            {Path: "/caf%C3%A9/a:b/"},
		`"route":"GET /a","code":"FORBIDDEN","reason":"outside_network"`:                                {Path: "/a"}, // a rule denies a public route
		`"route":"GET /","allow":true`:                                                                  {Path: "/"},
	} {
		l, err := logline.Parse([]byte(`{"msg":"decision","decision_id":"D1","api":"one","method":"GET",` + fields + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Request(explain.Request{})
		if want.Path == "" {
			if err == nil || !strings.Contains(err.Error(), "the field route of the line is not a route") {
				t.Errorf("%s: got %v", fields, err)
			}
			continue
		}
		want.API, want.Method = "one", "GET"
		if err != nil || r.Scopes != nil || r.Method != want.Method || r.Path != want.Path || r.TokenID != want.TokenID || r.User != want.User || r.Workspace != want.Workspace || r.API != want.API {
			t.Errorf("%s: got %+v, %v", fields, r, err)
		}
		given := explain.Request{Method: "PUT", Path: "/b", User: "eve", Workspace: "w2", API: "two"}
		if r, err := l.Request(given); err != nil || r.Method != "PUT" || r.Path != "/b" || r.User != "eve" || r.TokenID != "" || r.Workspace != "w2" || r.API != "two" {
			t.Errorf("%s with other values: got %+v, %v", fields, r, err)
		}
	}
}

// A log that Envoy and the sidecar share has two lines with one decision_id.
func TestParseFindsTheDecisionAmongOtherLines(t *testing.T) {
	const decision = `{"msg":"decision","decision_id":"D1","route":"GET /a","allow":true}` + "\n"
	const others = `{"decision_id":"D1","status":403}` + "\nLOG:  started\n"
	for text, want := range map[string]string{
		others + decision:            "",
		decision + others:            "",
		others:                       "0 of the lines are of the decision log: give only one, for example with grep DECISION_ID",
		decision + others + decision: "2 of the lines are of the decision log: give only one, for example with grep DECISION_ID",
	} {
		l, err := logline.Parse([]byte(text))
		if want == "" && (err != nil || l.DecisionID != "D1") || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%q: got %+v, %v, want %q", text, l, err, want)
		}
	}
}

// FuzzParse checks that a request of a line has a path that Envoy does not refuse.
func FuzzParse(f *testing.F) {
	f.Add(`{"msg":"decision","decision_id":"D1","api":"one","method":"GET","route":"GET /a/{b}/caf%C3%A9","allow":true}`)
	f.Add(`{"msg":"decision","route":"POST /{a...}","reason":"revoked","subject":"","code":"UNAUTHORIZED"}`)
	f.Add(`{"msg":"decision","code":"UNAVAILABLE"}`)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := logline.Parse([]byte(text))
		if err != nil {
			return
		}
		if l.Decision() == "" {
			t.Errorf("%q has no decision", text)
		}
		r, err := l.Request(explain.Request{})
		if err != nil {
			return
		}
		if _, err := envoypath.Normalize(r.Path); err != nil {
			t.Errorf("%q: the path is %q: %v", text, r.Path, err)
		}
	})
}
