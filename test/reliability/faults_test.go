// Package reliability causes each fault of docs/reliability.md in a running deployment.
package reliability

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/jmoiron/sqlx"
	"github.com/rs/zerolog"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/supabase"
)

// bound is the staleness bound of the sidecars. These tests cause each fault of docs/reliability.md in a running sidecar, one
// at a time, and check the bound. A request that starts more than the bound after the commit of a change is never answered with
// data from before the change.
const bound = time.Second

// faults is a stack whose sidecar connects to its database through two proxies that can simulate faults.
type faults struct {
	*demo.Stack
	lookups, feed *toxiproxy.Proxy
	db            *sqlx.DB
	home          registry.Workspace
	issuer        *supabase.Issuer
	client        *harness.Client
}

// newFaults starts the stack with the parameter `start`, which is harness.StartStack or harness.StartRaceStack.
func newFaults(t *testing.T, start func(testing.TB, demo.Config) *demo.Stack, environ ...string) *faults {
	t.Helper()
	f := &faults{issuer: supabase.Start()}
	t.Cleanup(f.issuer.Close)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	throughProxy := func(to **toxiproxy.Proxy, name string, databaseURL string) string {
		u, err := url.Parse(databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		if *to == nil {
			*to = toxiproxy.NewProxy(server, name, "127.0.0.1:0", u.Host)
			if err := (*to).Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup((*to).Stop)
		}
		u.Host = (*to).Listen
		return u.String()
	}
	f.Stack = start(t, demo.Config{
		Environ: slices.Concat([]string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, f.issuer.Environ(), environ),
		Database: func(u string) (lookups, feed string) {
			return throughProxy(&f.lookups, "lookups", u), throughProxy(&f.feed, "feed", u)
		},
	})
	f.db = harness.OpenDatabase(t, f.Stack)
	f.home = harness.CreateWorkspace(t, f.Stack)
	f.client = harness.NewClient(t, f.Stack, 4)
	return f
}

// addToxic adds a toxic (a fault of toxiproxy) to a proxy. The result `remove` is a function that removes the toxic.
func addToxic(t *testing.T, p *toxiproxy.Proxy, kind, attributes string) (remove func()) {
	t.Helper()
	w, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": "t", "type": %q, "stream": "downstream", "attributes": {%s}}`, kind, attributes)))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := p.Toxics.RemoveToxic(t.Context(), w.Name); err != nil {
			t.Error(err)
		}
	}
}

// metric reads one metric of the sidecar.
func (f *faults) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, text := harness.Probe(t, f.Stack, "/metrics")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *faults) leaseHeld(t *testing.T) bool {
	return f.metric(t, "keywicket_cache_lease_seconds") > 0
}

// warm creates a token of the home workspace, and returns the token after the sidecar has cached it: the sidecar has answered a
// request with this token without a query.
func (f *faults) warm(t *testing.T) harness.Token {
	t.Helper()
	token := harness.IssueToken(t, f.Stack, "sk_live_", f.home.ID, "inbox:read")
	f.warmUp(t, harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID))
	return token
}

// warmUp repeats the request until the sidecar allows it without a query.
func (f *faults) warmUp(t *testing.T, r harness.Request) {
	t.Helper()
	hits := func() (n float64) {
		for _, kind := range []string{"workspace_token", "personal_key", "oauth_token", "session"} {
			n += f.metric(t, `keywicket_cache_lookups_total{cache="hit",kind="`+kind+`",outcome="found"}`)
		}
		return n
	}
	harness.Await(t, "the sidecar has cached the token", func() bool {
		before := hits()
		return f.client.Send(t, r).Outcome == "allow" && hits() > before
	})
}

// requireChange repeats the request. It begins at the commit of the change, and ends well after the bound. Every request that
// starts after the bound must get the new answer. A request that starts earlier may get the old or the new answer. The parameter
// `limit` is the bound.
func (f *faults) requireChange(t *testing.T, r harness.Request, committed time.Time, limit time.Duration, old, want string) {
	t.Helper()
	var first time.Duration
	for late := 0; late < 10; {
		started := time.Since(committed)
		got := f.client.Send(t, r).Outcome
		switch {
		case got == want && first == 0:
			first = started
		case got == old && started > limit:
			t.Errorf("%v after the change the answer is still %s", started, got)
		case got != want && got != old && got != "UNAVAILABLE unavailable":
			t.Errorf("%v after the change the answer is %s, neither %s nor %s", started, got, old, want)
		}
		if started > limit {
			late++
		}
		switch {
		case got == "UNAVAILABLE unavailable": // the sidecar refuses immediately while the database is gone
			time.Sleep(limit / 50)
		case started < limit:
			time.Sleep(min(limit/50, limit-started))
		}
	}
	if first == 0 {
		t.Errorf("the answer was never %s", want)
	}
	t.Logf("%s: %v after the change", want, first.Round(time.Millisecond))
}

func (f *faults) exec(t *testing.T, statement string, args ...any) (committed time.Time) {
	t.Helper()
	if _, err := f.db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return time.Now()
}

const revoke = `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = $1`
