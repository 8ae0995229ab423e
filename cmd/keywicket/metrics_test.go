package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/directory"
)

// fakeDirectory returns the same result for each look-up.
type fakeDirectory struct {
	found authz.Found
	err   error
}

func (d fakeDirectory) Lookup(context.Context, authz.Lookup) (authz.Found, error) {
	return d.found, d.err
}

func TestMetrics(t *testing.T) {
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(&directory.Directory{}, &session.Verifier{}, engine)
	for _, a := range []fakeDirectory{{}, {found: authz.Found{Cache: authz.CacheHit}}, {found: authz.Found{Denial: authz.ReasonRevoked}}, {err: errors.New("down")}} {
		found, err := measuredDirectory{a, m}.Lookup(t.Context(), authz.Lookup{})
		if found.Denial != a.found.Denial || !errors.Is(err, a.err) {
			t.Errorf("got %+v, %v", found, err)
		}
	}
	for range 3 { // two of these come from the decision cache
		if d, err := engine.Decide(t.Context(), authz.Input{API: "velocity", Denial: authz.ReasonMissing}); err != nil || d.Allow {
			t.Errorf("got %+v, %v", d, err)
		}
	}
	m.observe(authz.Answer{API: "velaflows", Decision: authz.Decision{Allow: true}})
	m.observe(authz.Answer{API: "velaflows", Decision: authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonNoRoute}})

	w := httptest.NewRecorder()
	operations(nil, m).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for _, line := range []string{
		`keywicket_checks_total{api="velaflows",code="",reason=""} 1`,
		`keywicket_checks_total{api="velaflows",code="FORBIDDEN",reason="no_route"} 1`,
		`keywicket_lookup_seconds_count{cache="",outcome="found"} 1`,
		`keywicket_lookup_seconds_count{cache="",outcome="revoked"} 1`,
		`keywicket_lookup_seconds_count{cache="",outcome="error"} 1`,
		`keywicket_cache_lookups_total{cache="hit",kind="",outcome="found"} 1`,
		`keywicket_policy_seconds_count 1`,
		`keywicket_policy_remembered_total 2`,
		`keywicket_policy_remembers 1`,
		`go_goroutines`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line) {
			t.Errorf("no %s in\n%s", line, w.Body)
		}
	}
}

func TestIssuerMetrics(t *testing.T) {
	m := newIssuerMetrics(&session.Verifier{})
	m.observe("token", "reused")
	m.cleaned.Add(3)
	found, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range found {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = metric.GetCounter().GetValue()
		}
	}
	if got["keywicket_issuer_requests_total token reused"] != 1 || got["keywicket_issuer_cleaned_total"] != 3 {
		t.Errorf("%v", got)
	}
}

// A key pasted in the wrong place must not appear in the scrollback of a terminal or in a log.
func TestMasked(t *testing.T) {
	const key = "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"
	if got := maskArguments("unexpected argument "+key, []string{"token", "list", key}); got != "unexpected argument sk_live_…" {
		t.Error(got)
	}
	if got := maskArguments(`but got "`+key+`"`, []string{"--limit=" + key}); got != `but got "sk_live_…"` {
		t.Error(got)
	}
	s := new(invocation)
	for text, want := range map[string]string{
		`no workspace "` + key + `"`:                        `no workspace "sk_live_a1b2c3d4…"`,
		`no workspace "64f1a2b3c4d5e6f7a8b9c0d1"`:           `no workspace "64f1a2b3c4d5e6f7a8b9c0d1"`,
		"no user eyJhbGciOiJFUzI1NiJ9.e30.c2ln":             "no user eyJ…",
		"/etc/keywicket/vel_or_not.yaml: prefixes are vel_": "/etc/keywicket/vel_or_not.yaml: prefixes are vel_",
	} {
		if got := s.maskKeys(text); got != want {
			t.Error(got)
		}
	}
	if got := maskArguments("unknown flag --frobnicate", []string{"--frobnicate"}); got != "unknown flag --frobnicate" {
		t.Error(got)
	}
}
