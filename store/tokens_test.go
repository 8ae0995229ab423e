package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

func TestCreateToken(t *testing.T) {
	f := newFixture(t)
	token, key := f.create(t, store.NewToken{Format: skTest, API: "velaflows", Name: "Zapier",
		Scopes: []string{"crm:read", "tags:read"}, Workspace: "acme", ExpiresIn: new(90 * 24 * time.Hour)})
	if !strings.HasPrefix(key.Reveal(), "sk_test_") || len(key) != 48 || token.Prefix != key.Reveal()[:16] {
		t.Errorf("the key has %d characters, %q are visible", len(key), token.Prefix)
	}
	if token.ID == "" || token.Name != "Zapier" || token.API != "velaflows" || token.Kind != authz.KindWorkspaceToken ||
		token.Environment != authz.Sandbox || !slices.Equal(token.Scopes, []string{"crm:read", "tags:read"}) ||
		token.WorkspaceID == nil || *token.WorkspaceID != f.acme.ID || token.UserID != nil ||
		token.LastUsedAt != nil || token.RevokedAt != nil || token.Status != store.Active {
		t.Errorf("created %+v", token)
	}
	if life := token.ExpiresAt.Sub(token.CreatedAt); life < 90*24*time.Hour-time.Minute || life > 90*24*time.Hour {
		t.Errorf("it lives for %v", life)
	}
	users, _ := f.userToken(t)
	if users.UserID == nil || *users.UserID != f.ada.ID || users.WorkspaceID != nil || users.ExpiresAt != nil ||
		users.Scopes == nil {
		t.Errorf("created %+v", users)
	}
	stored := value[[]byte](t, f.db, `SELECT digest FROM keywicket.tokens WHERE id = $1`, token.ID)
	if digest := key.Digest(); !bytes.Equal(stored, digest[:]) {
		t.Error("what is stored is not the key's digest")
	}
	dump := value[string](t, f.db, `SELECT string_agg(t::text, ' ') FROM keywicket.tokens t`)
	if strings.Contains(dump, key.Reveal()[16:]) {
		t.Error("the key's secret part is stored")
	}
}

func TestAnExistingKeyCanBeImported(t *testing.T) {
	f := newFixture(t)
	const key authz.Secret = "vel_0123456789abcdef"
	token, got := f.create(t, store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme", Key: key})
	if got != key || token.Prefix != "vel_01234567" {
		t.Errorf("imported %+v", token)
	}
	d := f.directory(t, nil)
	if found := must(d.Lookup(t.Context(), lookup(key))); found.Principal.ID != token.ID {
		t.Errorf("found %+v", found)
	}
}

func TestCreateTokenRefuses(t *testing.T) {
	f := newFixture(t)
	_, taken := f.workspaceToken(t)
	ok := store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme"}
	for _, c := range []struct {
		name   string
		change func(*store.NewToken)
		kind   error
		want   string
	}{
		{"an unknown workspace", func(n *store.NewToken) { n.Workspace = "nowhere" }, store.ErrNotFound,
			`no workspace "nowhere"`},
		{"an unknown user", func(n *store.NewToken) { n.Format, n.Workspace, n.User = velu, "", "nobody" }, store.ErrNotFound,
			`no user "nobody"`},
		{"no owner", func(n *store.NewToken) { n.Workspace = "" }, store.ErrInvalid, "belongs to a workspace"},
		{"a workspace's of a user", func(n *store.NewToken) { n.Workspace, n.User = "", f.ada.ID }, store.ErrInvalid,
			"a workspace_key (vel_) belongs to a workspace"},
		{"of both", func(n *store.NewToken) { n.User = f.ada.ID }, store.ErrInvalid, "belongs to a workspace"},
		{"a user's of a workspace", func(n *store.NewToken) { n.Format = velu }, store.ErrInvalid,
			"a personal_key (velu_) belongs to a user"},
		{"a user's of both", func(n *store.NewToken) { n.Format, n.User = velu, f.ada.ID }, store.ErrInvalid,
			"belongs to a user"},
		{"expired", func(n *store.NewToken) { n.ExpiresAt = new(time.Now().Add(-time.Second)) }, store.ErrInvalid,
			"passed already"},
		{"a life of nothing", func(n *store.NewToken) { n.ExpiresIn = new(time.Duration(0)) }, store.ErrInvalid,
			"passed already"},
		{"a negative life", func(n *store.NewToken) { n.ExpiresIn = new(-time.Hour) }, store.ErrInvalid, "passed already"},
		{"two expiries", func(n *store.NewToken) {
			n.ExpiresIn, n.ExpiresAt = new(time.Hour), new(time.Now().Add(time.Hour))
		}, store.ErrInvalid, "one expiry"},
		{"no name", func(n *store.NewToken) { n.Name = "" }, store.ErrInvalid, "name"},
		{"an empty scope", func(n *store.NewToken) { n.Scopes = []string{""} }, store.ErrInvalid, "scope"},
		{"two scopes in one", func(n *store.NewToken) { n.Scopes = []string{"a b"} }, store.ErrInvalid, `the scope "a b"`},
		{"a key with another prefix", func(n *store.NewToken) { n.Key = "sk_live_0123456789abcdef" }, store.ErrInvalid,
			"not one that a client could present: it starts with vel_"},
		{"a key that is there", func(n *store.NewToken) { n.Key = taken }, store.ErrExists, "this key already"},
		{"a format that is none", func(n *store.NewToken) { n.Format.BodyLength = 20 }, store.ErrInvalid,
			"the credential format's body_length: 20 is less than 38"},
		{"a key that can be guessed", func(n *store.NewToken) { n.Key = "vel_0123456789abcde" }, store.ErrInvalid,
			"not one that a client could present"},
		{"a key with a space", func(n *store.NewToken) { n.Key = "vel_0123456789 abcdef" }, store.ErrInvalid,
			"not one that a client could present"},
		{"a key that no check accepts", func(n *store.NewToken) { n.Key = authz.Secret("vel_" + strings.Repeat("a", 509)) },
			store.ErrInvalid, "512 characters at most"},
		{"no API", func(n *store.NewToken) { n.API = "" }, store.ErrInvalid, "API"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := ok
			c.change(&n)
			token, key, err := f.CreateToken(t.Context(), n)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, %v, want %v with %q", token, err, c.kind, c.want)
			}
			if key != "" || strings.Contains(err.Error(), "pq:") || strings.Contains(err.Error(), taken.Reveal()) {
				t.Errorf("got the key %q, %v", key.Reveal(), err)
			}
		})
	}
}

func TestCreateTokenJudgesTheExpiryByTheDatabaseClock(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `CREATE SCHEMA ahead`)
	f.exec(t, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$`)
	r := must(store.OpenRegistry(t.Context(), with(f.url, "search_path", "ahead, pg_catalog")))
	defer func() { _ = r.Close() }()
	n := store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme",
		ExpiresAt: new(time.Now().Add(time.Hour))}
	if _, _, err := r.CreateToken(t.Context(), n); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("an hour from now, an hour ago for the database: %v", err)
	}
}

func TestTokensListsNewestFirst(t *testing.T) {
	f := newFixture(t)
	one, _ := f.workspaceToken(t)
	two, key := f.userToken(t, "user:read")
	three, _ := f.create(t, store.NewToken{Format: skLive, API: "velaflows", Name: "t", Workspace: "globex"})
	ids := func(filter store.TokenFilter) (ids []string) {
		for _, token := range must(f.Tokens(t.Context(), filter)) {
			ids = append(ids, token.ID)
		}
		return ids
	}
	for name, c := range map[string]struct {
		filter store.TokenFilter
		want   []string
	}{
		"all":                {store.TokenFilter{}, []string{three.ID, two.ID, one.ID}},
		"a workspace's":      {store.TokenFilter{Workspace: "acme"}, []string{one.ID}},
		"another's by id":    {store.TokenFilter{Workspace: f.globex.ID}, []string{three.ID}},
		"a user's":           {store.TokenFilter{User: f.ada.Email}, []string{two.ID}},
		"a user's with none": {store.TokenFilter{User: f.bob.ID}, nil},
	} {
		if got := ids(c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if _, err := f.Tokens(t.Context(), store.TokenFilter{Workspace: "nowhere"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of an unknown workspace: %v", err)
	}
	if _, err := f.Tokens(t.Context(), store.TokenFilter{User: "nobody"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of an unknown user: %v", err)
	}

	d := f.directory(t, nil)
	must(d.Lookup(t.Context(), lookup(key)))
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := must(f.Tokens(t.Context(), store.TokenFilter{User: f.ada.ID}))[0]
	if used.LastUsedAt == nil || used.LastUsedAt.Before(used.CreatedAt) {
		t.Errorf("the list has the last use at %v", used.LastUsedAt)
	}

	var fields map[string]any
	text := must(json.Marshal(used))
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	want := []string{"api", "attributes", "created_at", "environment", "expires_at", "id", "kind", "last_used_at", "name", "prefix",
		"revoked_at", "scopes", "status", "user_id", "workspace_id"}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("as JSON it has %v", got)
	}
	if at := fields["created_at"].(string); !strings.HasSuffix(at, "Z") || fields["expires_at"] != nil ||
		strings.Contains(string(text), key.Reveal()) {
		t.Errorf("as JSON it is %s", text)
	}
}

func TestPagesHaveNoGapAndNothingTwice(t *testing.T) {
	f := newFixture(t)
	// The tokens have three different times of creation, and unordered ids.
	f.exec(t, `INSERT INTO keywicket.tokens
			(api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, created_at)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(n::text::bytea), 't' || n, '{}',
			CASE WHEN n % 5 <> 0 THEN $1 END, CASE WHEN n % 5 = 0 THEN $2 END,
			timestamptz '2020-01-01 00:00:00.000001Z' + n % 3 * interval '1 microsecond'
		FROM generate_series(1, 60) n`, f.acme.ID, f.ada.ID)
	for name, filter := range map[string]store.TokenFilter{
		"all":           {},
		"a workspace's": {Workspace: "acme"},
		"a user's":      {User: f.ada.ID},
		"by prefix":     {Prefix: "ve"},
	} {
		for _, limit := range []int{1, 7, 20, 59, 60, 61} {
			whole := must(f.Tokens(t.Context(), filter))
			var pages []string
			next := filter
			for next.Limit = limit; ; {
				page := must(f.Tokens(t.Context(), next))
				if len(page) > limit || len(pages) > len(whole) {
					t.Fatalf("%s: %d on a page of %d, after %d of %d", name, len(page), limit, len(pages), len(whole))
				}
				if len(page) == 0 {
					break
				}
				for _, token := range page {
					pages = append(pages, token.ID)
				}
				next.After = page[len(page)-1].ID
				f.create(t, store.NewToken{Format: vel, API: "velocity", Name: "meanwhile", Workspace: "acme"})
			}
			var want []string
			for _, token := range whole {
				want = append(want, token.ID)
			}
			if !slices.Equal(pages, want) {
				t.Errorf("%s, pages of %d: got %d tokens %v, want %d %v", name, limit, len(pages), pages, len(want), want)
			}
		}
	}
	_, key := f.workspaceToken(t)
	for _, after := range []string{"nonesuch", key.Reveal()} {
		_, err := f.Tokens(t.Context(), store.TokenFilter{After: after})
		if !errors.Is(err, store.ErrNotFound) || strings.Contains(err.Error(), after) {
			t.Errorf("after a token that is none: %v", err)
		}
	}
}

func TestTokensByPrefix(t *testing.T) {
	f := newFixture(t)
	for _, prefix := range []string{"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG", `v\e%l_`} {
		f.exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
			VALUES ('velocity', 'workspace_key', 'live', $1, sha256(convert_to($1, 'UTF8')), 't', '{}', $2)`, prefix, f.acme.ID)
	}
	for prefix, want := range map[string][]string{
		"":                         {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG", `v\e%l_`},
		"vel":                      {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG"},
		"vel_":                     {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd"},
		"vel_AbCdEfGh":             {"vel_AbCdEfGh", "vel_AbCd"}, // of the other token, only this prefix may be known
		"vel_AbCdXXXX":             {"vel_AbCd"},
		"vel_abcd":                 nil,
		"vel_AbCdEfGhIjKlMnOpQrSt": {"vel_AbCdEfGh", "vel_AbCd"},
		"%":                        nil,
		"vel%":                     nil,
		"_":                        nil,
		`v\`:                       {`v\e%l_`},
		`v\e%`:                     {`v\e%l_`},
		`\`:                        nil,
		"über":                     nil,
	} {
		var got []string
		for _, token := range must(f.Tokens(t.Context(), store.TokenFilter{Prefix: prefix})) {
			got = append(got, token.Prefix)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", prefix, got, want)
		}
	}
	if list := must(f.Tokens(t.Context(), store.TokenFilter{Prefix: "vel_", Workspace: "globex"})); len(list) != 0 {
		t.Errorf("in another workspace: %+v", list)
	}
}

func TestListsUseTheirIndexes(t *testing.T) {
	f := newFixture(t)
	must(store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(20_000, nil))))
	last := must(f.Tokens(t.Context(), store.TokenFilter{Limit: 10_000}))[9_999]
	// A server that sorts by bytes, as this one may, can search for a prefix in any index.
	if class := value[string](t, f.db, `SELECT o.opcname FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0]
			WHERE i.indexrelid = 'keywicket.tokens_visible_prefix'::regclass`); class != "text_pattern_ops" {
		t.Errorf("the prefixes are sorted by %s", class)
	}
	for name, c := range map[string]struct {
		filter store.TokenFilter
		index  string
	}{
		"by prefix":                 {store.TokenFilter{Prefix: "vel_0000123", Limit: 101}, "tokens_visible_prefix"},
		"by a whole visible prefix": {store.TokenFilter{Prefix: "vel_00001234"}, "tokens_visible_prefix"},
		"a page":                    {store.TokenFilter{Limit: 101}, "tokens_created_at"},
		"a page far down":           {store.TokenFilter{Limit: 101, After: last.ID}, "tokens_created_at"},
		"a page of a workspace": {store.TokenFilter{Limit: 101, Workspace: f.acme.ID, After: last.ID},
			"tokens_(workspace_id|created_at)"},
	} {
		query, args := store.TokensQuery(c.filter, last.CreatedAt)
		var lines []string
		if err := f.db.SelectContext(t.Context(), &lines, `EXPLAIN (ANALYZE, TIMING off) `+query, args...); err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if !regexp.MustCompile(c.index).MatchString(plan) || strings.Contains(plan, "Seq Scan on tokens") {
			t.Errorf("%s: the plan is\n%s", name, plan)
		}
		if removed := regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d{3,})`).FindString(plan); removed != "" {
			t.Errorf("%s: it reads many more than it lists: %s\n%s", name, removed, plan)
		}
	}
}

func TestTheStatusOfATokenIsOfNow(t *testing.T) {
	f := newFixture(t)
	token, _ := f.workspaceToken(t)
	status := func() store.Status { return must(f.Token(t.Context(), token.ID)).Status }
	if s := status(); s != store.Active {
		t.Errorf("a new one is %s", s)
	}
	f.exec(t, `UPDATE keywicket.tokens SET expires_at = clock_timestamp()`)
	if s := status(); s != store.Expired {
		t.Errorf("an expired one is %s", s)
	}
	must(f.RevokeToken(t.Context(), token.ID))
	if s := status(); s != store.Revoked {
		t.Errorf("one that is revoked too is %s", s)
	}
}

func TestRevokeToken(t *testing.T) {
	f := newFixture(t)
	d := f.directory(t, nil)
	token, key := f.workspaceToken(t)
	other, otherKey := f.workspaceToken(t)
	must(d.Lookup(t.Context(), lookup(key)))
	first := must(f.RevokeToken(t.Context(), token.ID))
	if first.ID != token.ID || first.Status != store.Revoked || first.RevokedAt == nil {
		t.Errorf("revoked %+v", first)
	}
	if found := must(d.Lookup(t.Context(), lookup(key))); found.Denial != authz.ReasonRevoked {
		t.Errorf("the next look-up finds %+v", found)
	}
	if found := must(d.Lookup(t.Context(), lookup(otherKey))); found.Principal.ID != other.ID {
		t.Errorf("the other token is %+v", found)
	}
	if again := must(f.RevokeToken(t.Context(), token.ID)); !again.RevokedAt.Equal(*first.RevokedAt) {
		t.Errorf("it was revoked at %v, and again at %v", first.RevokedAt, again.RevokedAt)
	}
	for _, id := range []string{"", "nonesuch", key.Reveal()} {
		_, err := f.RevokeToken(t.Context(), id)
		if !errors.Is(err, store.ErrNotFound) || id != "" && strings.Contains(err.Error(), id) {
			t.Errorf("%v", err)
		}
	}
}

func TestDeletingAnOwnerDeletesTheTokens(t *testing.T) {
	f := newFixture(t)
	d := f.directory(t, nil)
	_, workspaces := f.workspaceToken(t)
	_, users := f.userToken(t)
	must(d.Lookup(t.Context(), lookup(workspaces)))
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `DELETE FROM keywicket.workspaces WHERE slug = 'acme'`)
	f.exec(t, `DELETE FROM keywicket.users WHERE id = $1`, f.ada.ID)
	d = f.directory(t, nil)
	for _, key := range []authz.Secret{workspaces, users} {
		if found := must(d.Lookup(t.Context(), lookup(key))); found.Denial != authz.ReasonUnknown {
			t.Errorf("found %+v", found)
		}
	}
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT (SELECT count(*) FROM keywicket.token_usage)
			+ (SELECT count(*) FROM keywicket.members)`); n != 0 {
		t.Errorf("%d rows are left of what is gone", n)
	}
}

func TestTimesAreInUTCWhateverTheDatabaseIsSetTo(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `ALTER DATABASE `+value[string](t, f.db, `SELECT current_database()`)+` SET timezone = 'Asia/Tokyo'`)
	r := must(store.OpenRegistry(t.Context(), f.url))
	defer func() { _ = r.Close() }()
	if text := string(must(json.Marshal(must(r.Users(t.Context()))[0].CreatedAt))); !strings.HasSuffix(text, `Z"`) {
		t.Errorf("a user was created at %s", text)
	}
}
