package console_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// fixture is a store that is connected as the console's role.
type fixture struct {
	*storetest.Fixture
	*console.Store
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	f := storetest.NewFixture(t)
	s := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = s.Close() })
	return fixture{f, s}
}

// add creates a token of the workspace acme, with an age in days. The name is also its id.
func (f fixture) add(t *testing.T, name, prefix string, age int, more string) {
	t.Helper()
	f.Exec(t, `INSERT INTO keywicket.tokens (id, api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at)
		VALUES (CASE WHEN length($1::text) < 99 THEN $1::text ELSE md5($1::text) END, 'velocity', 'workspace_key', 'live', $2, sha256(convert_to($1::text, 'UTF8')), $1, '{}', $3, now() - $4 * interval '1 day')`, name, prefix, f.Acme.ID, age)
	if more != "" {
		f.Exec(t, `UPDATE keywicket.tokens SET `+more+` WHERE id = $1`, name)
	}
}

func (f fixture) filter() console.Filter {
	return console.Filter{Workspace: f.Acme.ID, API: "velocity", Kinds: []authz.Kind{authz.KindWorkspaceKey}, Limit: 100}
}

// list returns the names on all pages, separated by spaces.
func (f fixture) list(t *testing.T, filter console.Filter) string {
	t.Helper()
	var names []string
	for {
		page := storetest.Must(f.Store.Tokens(t.Context(), filter))
		if len(page.Tokens) > filter.Limit {
			t.Fatalf("%d tokens on a page of %d", len(page.Tokens), filter.Limit)
		}
		for _, token := range page.Tokens {
			names = append(names, token.Name)
		}
		if page.Next == "" {
			return strings.Join(names, " ")
		}
		filter.After = page.Next
	}
}

func TestTokens(t *testing.T) {
	f := newFixture(t)
	f.add(t, "alpha", "vel_aaaa1111", 1, `created_by = '`+f.Ada.ID+`'`)
	f.add(t, "Alphabet", "vel_aaaa2222", 100, `created_by = 'gone'`)
	f.add(t, "100%", "vel_bbbb3333", 200, `revoked_at = now()`)
	f.add(t, "100x", "vel_BBBB4444", 300, `expires_at = now() - interval '1 day'`)
	f.add(t, "a_b", "alpha", 400, `expires_at = now() + interval '3 days', environment = 'sandbox'`)
	f.add(t, "axb", `x\y`, 500, `expires_at = now() + interval '2 days'`)
	f.add(t, "never", "vel_cccc", 600, `expires_at = 'infinity'`)
	f.add(t, "older", "vel_dddd", 700, `expires_at = now() - interval '2 days'`)
	f.add(t, "both", "vel_eeee", 800, `expires_at = now() - interval '2 days', revoked_at = now()`)
	f.add(t, "other-api", "vel_ffff", 1, `api = 'velaflows'`)
	f.add(t, "other-kind", "vel_gggg", 1, `kind = 'workspace_token'`)
	f.add(t, "other-workspace", "vel_hhhh", 1, `workspace_id = '`+f.Globex.ID+`'`)
	f.add(t, "of-a-user", "velu_", 1, `workspace_id = NULL, user_id = '`+f.Ada.ID+`'`)
	f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ('Alphabet', now()), ('never', now() - interval '91 days')`)
	const all = "alpha Alphabet 100% 100x a_b axb never older both"
	for name, c := range map[string]struct {
		change func(*console.Filter)
		want   string
	}{
		"all":                    {func(*console.Filter) {}, all},
		"another API":            {func(f *console.Filter) { f.API = "velaflows" }, "other-api"},
		"two kinds":              {func(f *console.Filter) { f.Kinds = append(f.Kinds, authz.KindWorkspaceToken) }, strings.Replace(all, "alpha", "other-kind alpha", 1)},
		"a user":                 {func(g *console.Filter) { g.Workspace, g.User = "", f.Ada.ID }, "of-a-user"},
		"a name":                 {func(f *console.Filter) { f.Search = "ALPHA" }, "alpha Alphabet"},
		"names, then prefixes":   {func(f *console.Filter) { f.Search = "alpha" }, "alpha Alphabet a_b"},
		"a percent sign":         {func(f *console.Filter) { f.Search = "100%" }, "100%"},
		"an underscore":          {func(f *console.Filter) { f.Search = "a_" }, "a_b"},
		"a backslash":            {func(f *console.Filter) { f.Search = `x\` }, "axb"},
		"a prefix":               {func(f *console.Filter) { f.Search = "vel_aaaa" }, "alpha Alphabet"},
		"a prefix in lower case": {func(f *console.Filter) { f.Search = "vel_bbbb" }, "100%"},
		"nothing":                {func(f *console.Filter) { f.Search = "zzz" }, ""},
		"a part of a name":       {func(f *console.Filter) { f.Search = "lpha" }, ""},
		"active":                 {func(f *console.Filter) { f.Status = registry.Active }, "alpha Alphabet a_b axb never"},
		"expired":                {func(f *console.Filter) { f.Status = registry.Expired }, "100x older"},
		"revoked":                {func(f *console.Filter) { f.Status = registry.Revoked }, "100% both"},
		"expiring":               {func(f *console.Filter) { f.Status = console.Expiring }, "axb a_b"},
		"unused":                 {func(f *console.Filter) { f.Status = console.Unused }, "a_b axb never"},
		"sandbox":                {func(f *console.Filter) { f.Environment = authz.Sandbox }, "a_b"},
		"a status and a name":    {func(f *console.Filter) { f.Status, f.Search = registry.Revoked, "1" }, "100%"},
	} {
		filter := f.filter()
		c.change(&filter)
		for _, limit := range []int{1, 2, 100} {
			filter.Limit = limit
			if got := f.list(t, filter); got != c.want {
				t.Errorf("%s, %d on a page: got %q, want %q", name, limit, got, c.want)
			}
		}
	}
	f.Exec(t, `INSERT INTO keywicket.token_use VALUES ('alpha', (now() AT TIME ZONE 'UTC')::date, 5, 1), ('alpha', (now() AT TIME ZONE 'UTC')::date - 29, 7, 0),
		('alpha', (now() AT TIME ZONE 'UTC')::date - 30, 9, 9), ('alpha', (now() AT TIME ZONE 'UTC')::date + 1, 9, 9), ('never', (now() AT TIME ZONE 'UTC')::date, 1, 1)`)
	page := storetest.Must(f.Store.Tokens(t.Context(), f.filter()))
	alpha, alphabet := page.Tokens[0], page.Tokens[1]
	if alpha.Creator == nil || *alpha.Creator != f.Ada.Email || alphabet.Creator != nil {
		t.Errorf("the creators are %v and %v", alpha.Creator, alphabet.Creator)
	}
	use := alpha.Use
	if len(use) != 30 || use[29].Allowed != 5 || use[29].Denied != 1 || use[0].Allowed != 7 || use[1].Allowed != 0 ||
		use[29].Day.Sub(use[0].Day) != 29*24*time.Hour || len(alphabet.Use) != 30 || alphabet.Use[29].Allowed != 0 {
		t.Errorf("the use is %+v and %+v", use, alphabet.Use)
	}
	if got := storetest.Must(f.Use(t.Context(), "alpha", 31)); len(got) != 31 || got[0].Allowed != 9 || !slices.Equal(got[1:], use) {
		t.Errorf("the use is %+v", got)
	}
	if got := storetest.Must(f.Use(t.Context(), "unknown", 2)); len(got) != 2 || got[1].Allowed != 0 || !got[1].Day.Equal(use[29].Day) {
		t.Errorf("the use of an unknown token is %+v", got)
	}
}

// A name that is longer than the index's key is found by its whole text.
func TestSearchOfALongName(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("Long ", 2000)
	f.add(t, long+"a", "vel_1", 1, "")
	f.add(t, long+"b", "vel_2", 2, "")
	filter := f.filter()
	filter.Search = strings.ToLower(long) + "B"
	if got := f.list(t, filter); got != long+"b" {
		t.Errorf("%d bytes", len(got))
	}
}

// Tokens that were created at the same time, or have the same name, are listed exactly once.
func TestPagesOfEqualTokens(t *testing.T) {
	f := newFixture(t)
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at, import_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(n::text::bytea), 'same', '{}', $1, '2026-01-01', 'i' FROM generate_series(1, 25) n`, f.Acme.ID)
	for _, search := range []string{"", "s", "v"} {
		filter := f.filter()
		filter.Search, filter.Limit = search, 10
		seen := map[string]bool{}
		for pages := 1; ; pages++ {
			page := storetest.Must(f.Store.Tokens(t.Context(), filter))
			for _, token := range page.Tokens {
				seen[token.ID] = true
			}
			if filter.After = page.Next; page.Next == "" {
				if pages != 3 || len(seen) != 25 {
					t.Errorf("%q: %d tokens on %d pages", search, len(seen), pages)
				}
				break
			}
		}
	}
}

func TestRefusedFilters(t *testing.T) {
	f := newFixture(t)
	f.add(t, "a", "vel_", 1, "")
	f.add(t, "b", "vel_", 1, "")
	first := f.filter()
	first.Limit = 1
	next := storetest.Must(f.Store.Tokens(t.Context(), first)).Next
	cursor := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for name, change := range map[string]func(*console.Filter){
		"no limit":               func(f *console.Filter) { f.Limit = 0 },
		"a high limit":           func(f *console.Filter) { f.Limit = 101 },
		"status":                 func(f *console.Filter) { f.Status = "lost" },
		"environment":            func(f *console.Filter) { f.Environment = "test" },
		"search":                 func(f *console.Filter) { f.Search = "a\x00" },
		"search in no UTF-8":     func(f *console.Filter) { f.Search = "\xff" },
		"cursor":                 func(f *console.Filter) { f.After = "!" },
		"cursor without content": func(f *console.Filter) { f.After = cursor(`{}`) },
		"cursor of another list": func(f *console.Filter) { f.After, f.Search = next, "a" },
		"cursor with a bad time": func(f *console.Filter) { f.After = cursor(`{"w":"newest","k":"yesterday-ish","i":"a"}`) },
		"cursor with a NUL":      func(f *console.Filter) { f.After = cursor(`{"w":"newest","k":"\u0000","i":"a"}`) },
		"cursor without an id":   func(f *console.Filter) { f.After = cursor(`{"w":"newest","k":"2026-01-01"}`) },
	} {
		filter := f.filter()
		change(&filter)
		if _, err := f.Store.Tokens(t.Context(), filter); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, days := range []int{0, 401} {
		if _, err := f.Use(t.Context(), "a", days); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%d days: %v", days, err)
		}
	}
}

// A page reads a limited number of tokens. The next page continues where it ended.
func TestRareTokens(t *testing.T) {
	f := newFixture(t)
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at, import_id)
		SELECT 'velocity', 'workspace_key', CASE WHEN n % 3500 = 1 THEN 'sandbox' ELSE 'live' END, 'vel_' || n, sha256(n::text::bytea), 'n' || n, '{}', $1,
			now() - n * interval '1 minute', 'i'
		FROM generate_series(1, 9000) n`, f.Acme.ID)
	filter := f.filter()
	filter.Environment = authz.Sandbox
	for _, c := range []struct{ search, want string }{{"", "n1 n3501 n7001"}, {"n", "n1 n3501 n7001"}, {"vel", "n1 n3501 n7001"}} {
		filter.Search = c.search
		if got := f.list(t, filter); got != c.want {
			t.Errorf("%q: %s", c.search, got)
		}
		if page := storetest.Must(f.Store.Tokens(t.Context(), filter)); len(page.Tokens) == 3 || page.Next == "" {
			t.Errorf("%q: the first page has %d tokens and the cursor %q", c.search, len(page.Tokens), page.Next)
		}
	}
}

// The store is not ready while a privilege or a migration is missing. The error names it.
func TestReady(t *testing.T) {
	f := newFixture(t)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for statement, want := range map[string]string{
		`REVOKE SELECT ON keywicket.token_use FROM keywicket_console`:                        "token_use: SELECT",
		`REVOKE SELECT ON keywicket.grant_usage FROM keywicket_console`:                      "grant_usage: SELECT",
		`REVOKE SELECT (created_by) ON keywicket.tokens FROM keywicket_console`:              "tokens: SELECT (created_by)",
		`ALTER TABLE keywicket.tokens DROP COLUMN revoked_reason`:                            "tokens: SELECT (revoked_reason)",
		`REVOKE DELETE ON keywicket.idempotency_keys FROM keywicket_console`:                 "idempotency_keys: DELETE",
		`REVOKE EXECUTE ON FUNCTION keywicket.revoke_leaked(bytea[]) FROM keywicket_console`: "revoke_leaked(bytea[]): EXECUTE",
		`DROP FUNCTION keywicket.shorten_token(text, interval)`:                              "shorten_token(text, interval): EXECUTE",
		`REVOKE UPDATE (leaver_rule) ON keywicket.workspaces FROM keywicket_console`:         "workspaces: UPDATE (leaver_rule)",
		`DROP TABLE keywicket.audit_log CASCADE`:                                             "audit_log: SELECT",
	} {
		g := newFixture(t)
		g.Exec(t, statement)
		if err := g.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", statement, err)
		}
	}
	f.Exec(t, `REVOKE USAGE ON SCHEMA keywicket FROM keywicket_console`)
	if err := f.Ready(t.Context()); err == nil {
		t.Error("ready without the schema")
	}
}

func TestActivity(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.add(t, fmt.Sprint("t", i), "vel_", 1, `revoked_at = now()`)
	}
	filter := console.ActivityFilter{Workspace: f.Acme.ID, ObjectKind: "token", Limit: 2}
	var got []string
	for {
		page := storetest.Must(f.Activity(t.Context(), filter))
		for _, e := range page.Entries {
			got = append(got, e.Action+" "+*e.ObjectName)
		}
		if filter.After = page.Next; page.Next == "" {
			break
		}
	}
	if want := "[revoke t2 create t2 revoke t1 create t1 revoke t0 create t0]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	for name, c := range map[string]struct {
		filter console.ActivityFilter
		want   int
	}{
		"an action": {console.ActivityFilter{Workspace: f.Acme.ID, Action: "revoke", Limit: 9}, 3},
		"a login":   {console.ActivityFilter{Workspace: f.Acme.ID, ObjectKind: "token", Actor: storetest.Value[string](t, f.DB, `SELECT session_user::text`), Limit: 9}, 0},
		"an actor":  {console.ActivityFilter{Workspace: f.Acme.ID, Actor: "nobody", Limit: 9}, 0},
		"a user":    {console.ActivityFilter{Account: f.Bob.ID, Limit: 9}, 1},
	} {
		if page := storetest.Must(f.Activity(t.Context(), c.filter)); len(page.Entries) != c.want || page.Next != "" {
			t.Errorf("%s: %+v", name, page)
		}
	}
	for name, refused := range map[string]console.ActivityFilter{
		"limit": {Workspace: f.Acme.ID}, "cursor": {Workspace: f.Acme.ID, Limit: 1, After: "x"}, "negative": {Workspace: f.Acme.ID, Limit: 1, After: "-1"},
		"text": {Workspace: f.Acme.ID, Limit: 1, Actor: "\x00"},
	} {
		if _, err := f.Activity(t.Context(), refused); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
