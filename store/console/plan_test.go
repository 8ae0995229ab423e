package console_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// fill creates tokens of the workspace acme, and half as many newer tokens of other workspaces, and users with keys. The user u8 has a
// hundredth as many keys. The oldest tenth of acme's tokens are named legacy. One in 1,000 is for the sandbox, one in 500 is revoked, and
// one in three has an expiry. Half of the tokens were created in the last 80 days.
func fill(t testing.TB, f fixture, tokens, users int) {
	t.Helper()
	f.Exec(t, `INSERT INTO keywicket.workspaces (id, slug, name) SELECT lpad(to_hex(n), 24, '0'), 'w' || n, 'W' FROM generate_series(1, 100) n`)
	f.Exec(t, `INSERT INTO keywicket.users (id, email) SELECT 'u' || n, 'u' || n || '@example.com' FROM generate_series(1, $1::int) n`, users)
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at, expires_at, revoked_at, import_id)
		SELECT 'velocity', 'workspace_key', CASE WHEN n % 1000 = 0 THEN 'sandbox' ELSE 'live' END, 'vel_' || left(md5(n::text), 8), sha256(n::text::bytea),
			CASE WHEN n <= $2::int / 10 THEN 'Legacy ' WHEN n % 10 = 0 THEN 'Build ' ELSE 'deploy-' END || n, '{issues:read}', $1,
			now() - interval '6 days' - ($2::int - n) * interval '160 days' / $2::int, CASE WHEN n % 3 = 0 THEN now() + (n - $2::int / 2) * interval '1 minute' END,
			CASE WHEN n % 500 = 0 THEN now() END, 'i'
		FROM generate_series(1, $2::int) n`, f.Acme.ID, tokens)
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at, import_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_' || left(md5(n::text), 8), sha256(('w' || n)::bytea), 'deploy-' || n, '{issues:read}',
			lpad(to_hex(1 + n % 100), 24, '0'), now() - ($1::int / 2 - n) * interval '1 second', 'i' FROM generate_series(1, $1::int / 2) n`, tokens)
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, user_id, import_id)
		SELECT 'velocity', 'personal_key', 'live', 'velu_' || left(md5(n::text), 8), sha256(('u' || n)::bytea), 'key ' || n, '{issues:read}',
			CASE WHEN n <= $1::int * 3 THEN 'u' || 1 + n % $1::int ELSE 'u8' END, 'i' FROM generate_series(1, $1::int * 3 + $2::int / 100) n`, users, tokens)
	f.Exec(t, `INSERT INTO keywicket.token_usage SELECT id, GREATEST(created_at, now() - interval '1 day') FROM keywicket.tokens WHERE hashtext(id) % 10 < 7`)
	f.Exec(t, `INSERT INTO keywicket.token_use SELECT id, current_date - d, 10, 1 FROM (SELECT id FROM keywicket.tokens LIMIT 20000) t, generate_series(0, 29) d`)
	f.Exec(t, `VACUUM ANALYZE keywicket.tokens, keywicket.token_usage, keywicket.token_use, keywicket.users`)
}

// search is a page whose plan is examined.
type search struct {
	name   string
	walk   string
	index  string
	change func(*console.Filter)
}

// searches returns the pages of lists and searches.
func searches(f fixture, t testing.TB) []search {
	late := f.filter()
	for range 3 {
		late.After = storetest.Must(f.Store.Tokens(t.Context(), late)).Next
	}
	var key, id string
	if err := f.DB.QueryRow(`SELECT created_at, id FROM keywicket.tokens WHERE workspace_id = $1 AND created_at < now() - interval '100 days'
		ORDER BY created_at DESC, id DESC LIMIT 1`, f.Acme.ID).Scan(&key, &id); err != nil {
		t.Fatal(err)
	}
	user := func(id string) func(*console.Filter) {
		return func(f *console.Filter) { f.Workspace, f.User, f.Kinds = "", id, []authz.Kind{authz.KindPersonalKey} }
	}
	return []search{
		{"the first page", "newest", "tokens_workspace_newest", func(*console.Filter) {}},
		{"a later page", "newest", "tokens_workspace_newest", func(f *console.Filter) { f.After = late.After }},
		{"a page in the middle", "newest", "tokens_workspace_newest", func(f *console.Filter) { f.After = console.Cursor("newest", key, id) }},
		{"the first page of a user", "newest", "tokens_user_newest", user("u7")},
		{"the first page of a user with many keys", "newest", "tokens_user_newest", user("u8")},
		{"a frequent name", "name", "tokens_workspace_name", func(f *console.Filter) { f.Search = "deploy" }},
		{"a frequent name of old tokens", "name", "tokens_workspace_name", func(f *console.Filter) { f.Search = "legacy" }},
		{"one name", "name", "tokens_workspace_name", func(f *console.Filter) { f.Search = "legacy 77" }},
		{"no name", "name", "tokens_workspace_name", func(f *console.Filter) { f.Search = "nothing" }},
		{"a frequent prefix", "prefix", "tokens_prefix", func(f *console.Filter) { f.Search = "vel_" }},
		{"a rare prefix", "prefix", "tokens_prefix", func(f *console.Filter) { f.Search = "vel_abcd" }},
		{"no prefix", "prefix", "tokens_prefix", func(f *console.Filter) { f.Search = "sk_" }},
		{"a prefix of other owners", "prefix", "tokens_prefix", func(f *console.Filter) { f.Search = "velu_" }},
		{"revoked", "newest", "tokens_workspace_revoked", func(f *console.Filter) { f.Status = registry.Revoked }},
		{"expired", "expired", "tokens_workspace_expiry", func(f *console.Filter) { f.Status = registry.Expired }},
		{"expiring", "expiring", "tokens_workspace_expiry", func(f *console.Filter) { f.Status = console.Expiring }},
		{"active", "newest", "tokens_workspace_newest", func(f *console.Filter) { f.Status = registry.Active }},
		{"unused", "newest", "tokens_workspace_newest", func(f *console.Filter) { f.Status = console.Unused }},
		{"a later page of unused", "newest", "tokens_workspace_newest", func(f *console.Filter) {
			f.Status, f.After = console.Unused, console.Cursor("newest", key, id)
		}},
		{"a rare environment", "newest", "tokens_workspace_newest", func(f *console.Filter) { f.Environment = authz.Sandbox }},
	}
}

// explain returns the plan of a page.
func (f fixture) explain(t testing.TB, s search) string {
	t.Helper()
	filter := f.filter()
	s.change(&filter)
	query, args := filter.Query(s.walk)
	var lines []string
	if err := f.DB.SelectContext(t.Context(), &lines, `EXPLAIN (ANALYZE, BUFFERS, COSTS off) `+query, args...); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

var removedRows = regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d+)`)

// Each list and each search finds its page with an index, and reads few other tokens.
func TestListsUseTheirIndexes(t *testing.T) {
	if testing.Short() {
		t.Skip("creates 150,000 tokens")
	}
	f := newFixture(t)
	fill(t, f, 100_000, 1_000)
	for _, s := range searches(f, t) {
		plan := f.explain(t, s)
		if !strings.Contains(plan, s.index) || strings.Contains(plan, "Seq Scan on tokens") || strings.Contains(plan, "Disk:") {
			t.Errorf("%s: the plan is\n%s", s.name, plan)
		}
		for _, removed := range removedRows.FindAllStringSubmatch(plan, -1) {
			if n := storetest.Must(strconv.Atoi(removed[1])); n > console.MaxRead {
				t.Errorf("%s: %d rows were read for nothing:\n%s", s.name, n, plan)
			}
		}
	}
}

// BenchmarkTokens measures a page of a workspace with 1,000,000 tokens. It prints the median of the time that EXPLAIN ANALYZE reports,
// and measures the whole operation.
func BenchmarkTokens(b *testing.B) {
	f := newFixture(b)
	fill(b, f, 1_000_000, 10_000)
	execution := regexp.MustCompile(`(?:Planning|Execution) Time: ([0-9.]+) ms`)
	for _, s := range searches(f, b) {
		b.Run(strings.ReplaceAll(s.name, " ", "_"), func(b *testing.B) {
			var times []float64
			var plan string
			for range 21 {
				plan = f.explain(b, s)
				sum := 0.0
				for _, part := range execution.FindAllStringSubmatch(plan, -1) {
					sum += storetest.Must(strconv.ParseFloat(part[1], 64))
				}
				times = append(times, sum)
			}
			slices.Sort(times)
			filter := f.filter()
			s.change(&filter)
			began := time.Now()
			for b.Loop() {
				storetest.Must(f.Store.Tokens(b.Context(), filter))
			}
			b.ReportMetric(times[len(times)/2], "explain-ms")
			b.ReportMetric(float64(time.Since(began).Milliseconds())/float64(b.N), "page-ms")
			b.Logf("%s\n%s", s.name, plan)
		})
	}
}
