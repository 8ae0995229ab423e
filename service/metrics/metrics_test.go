package metrics

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
	found authz.LookupResult
	err   error
}

func (d fakeDirectory) Lookup(context.Context, authz.Lookup) (authz.LookupResult, error) {
	return d.found, d.err
}

func TestMetrics(t *testing.T) {
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := NewSidecar(&directory.Directory{}, &session.Verifier{}, engine)
	for _, a := range []fakeDirectory{{}, {found: authz.LookupResult{Cache: authz.CacheHit}}, {found: authz.LookupResult{Denial: authz.ReasonRevoked}}, {err: errors.New("down")}} {
		found, err := m.MeasureDirectory(a).Lookup(t.Context(), authz.Lookup{})
		if found.Denial != a.found.Denial || !errors.Is(err, a.err) {
			t.Errorf("got %+v, %v", found, err)
		}
	}
	for range 3 { // two of these decisions are remembered
		if d, err := engine.Decide(t.Context(), authz.Input{API: "velocity", Denial: authz.ReasonMissing}); err != nil || d.Allow {
			t.Errorf("got %+v, %v", d, err)
		}
	}
	m.Observe(authz.Answer{API: "velaflows", Decision: authz.Decision{Allow: true}})
	m.Observe(authz.Answer{API: "velaflows", Decision: authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonNoRoute}})

	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
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
	m := NewIssuer(&session.Verifier{})
	m.Observe("token", "reused")
	m.CountCleaned(3)
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
