package registry_test

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
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/store/tokenimport"
)

func TestCreateToken(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.Create(t, registry.NewToken{Format: storetest.SkTest, API: "velaflows", Name: "Zapier",
		Scopes: []string{"crm:read", "tags:read"}, Workspace: "acme", ExpiresIn: new(90 * 24 * time.Hour)})
	if !strings.HasPrefix(key.Reveal(), "sk_test_") || len(key) != 48 || token.Prefix != key.Reveal()[:16] {
		t.Errorf("the key has %d characters, %q are visible", len(key), token.Prefix)
	}
	if token.ID == "" || token.Name != "Zapier" || token.API != "velaflows" || token.Kind != authz.KindWorkspaceToken ||
		token.Environment != authz.Sandbox || !slices.Equal(token.Scopes, []string{"crm:read", "tags:read"}) ||
		token.WorkspaceID == nil || *token.WorkspaceID != f.Acme.ID || token.UserID != nil ||
		token.LastUsedAt != nil || token.RevokedAt != nil || token.Status != registry.Active {
		t.Errorf("created %+v", token)
	}
	if life := token.ExpiresAt.Sub(token.CreatedAt); life < 90*24*time.Hour-time.Minute || life > 90*24*time.Hour {
		t.Errorf("the token's lifetime is %v", life)
	}
	userToken, _ := f.UserToken(t)
	if userToken.UserID == nil || *userToken.UserID != f.Ada.ID || userToken.WorkspaceID != nil || userToken.ExpiresAt != nil ||
		userToken.Scopes == nil {
		t.Errorf("created %+v", userToken)
	}
	stored := storetest.Value[[]byte](t, f.DB, `SELECT digest FROM keywicket.tokens WHERE id = $1`, token.ID)
	if digest := key.Digest(); !bytes.Equal(stored, digest[:]) {
		t.Error("the stored digest is not the digest of the key")
	}
	dump := storetest.Value[string](t, f.DB, `SELECT string_agg(t::text, ' ') FROM keywicket.tokens t`)
	if strings.Contains(dump, key.Reveal()[16:]) {
		t.Error("the key's secret part is stored")
	}
}

func TestExistingKeyCanBeImported(t *testing.T) {
	f := storetest.NewFixture(t)
	const key authz.Secret = "vel_0123456789abcdef"
	token, got := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme", Key: key})
	if got != key || token.Prefix != "vel_01234567" {
		t.Errorf("imported %+v", token)
	}
	d := f.Directory(t, nil)
	if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Principal.ID != token.ID {
		t.Errorf("found %+v", found)
	}
}

func TestCreateTokenRefuses(t *testing.T) {
	f := storetest.NewFixture(t)
	_, existing := f.WorkspaceToken(t)
	valid := registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme"}
	for _, c := range []struct {
		name   string
		change func(*registry.NewToken)
		kind   error
		want   string
	}{
		{"an unknown workspace", func(n *registry.NewToken) { n.Workspace = "nowhere" }, database.ErrNotFound,
			`no workspace "nowhere"`},
		{"an unknown user", func(n *registry.NewToken) { n.Format, n.Workspace, n.User = storetest.Velu, "", "nobody" }, database.ErrNotFound,
			`no user "nobody"`},
		{"no owner", func(n *registry.NewToken) { n.Workspace = "" }, database.ErrInvalid, "belongs to a workspace"},
		{"a workspace key for a user", func(n *registry.NewToken) { n.Workspace, n.User = "", f.Ada.ID }, database.ErrInvalid,
			"a workspace_key (vel_) belongs to a workspace"},
		{"a workspace key with two owners", func(n *registry.NewToken) { n.User = f.Ada.ID }, database.ErrInvalid, "belongs to a workspace"},
		{"a personal key for a workspace", func(n *registry.NewToken) { n.Format = storetest.Velu }, database.ErrInvalid,
			"a personal_key (velu_) belongs to a user"},
		{"a personal key with two owners", func(n *registry.NewToken) { n.Format, n.User = storetest.Velu, f.Ada.ID }, database.ErrInvalid,
			"belongs to a user"},
		{"expired", func(n *registry.NewToken) { n.ExpiresAt = new(time.Now().Add(-time.Second)) }, database.ErrInvalid,
			"already passed"},
		{"a lifetime of zero", func(n *registry.NewToken) { n.ExpiresIn = new(time.Duration(0)) }, database.ErrInvalid,
			"already passed"},
		{"a negative lifetime", func(n *registry.NewToken) { n.ExpiresIn = new(-time.Hour) }, database.ErrInvalid, "already passed"},
		{"two expiries", func(n *registry.NewToken) {
			n.ExpiresIn, n.ExpiresAt = new(time.Hour), new(time.Now().Add(time.Hour))
		}, database.ErrInvalid, "one expiry"},
		{"no name", func(n *registry.NewToken) { n.Name = "" }, database.ErrInvalid, "name"},
		{"an empty scope", func(n *registry.NewToken) { n.Scopes = []string{""} }, database.ErrInvalid, "scope"},
		{"two scopes in one", func(n *registry.NewToken) { n.Scopes = []string{"a b"} }, database.ErrInvalid, `the scope "a b"`},
		{"a key with another prefix", func(n *registry.NewToken) { n.Key = "sk_live_0123456789abcdef" }, database.ErrInvalid,
			"no client can present this key: a key starts with vel_"},
		{"an existing key", func(n *registry.NewToken) { n.Key = existing }, database.ErrExists, "this key already"},
		{"an invalid format", func(n *registry.NewToken) { n.Format.BodyLength = 20 }, database.ErrInvalid,
			"the credential format's body_length: 20 is less than 38"},
		{"a key that is too short", func(n *registry.NewToken) { n.Key = "vel_0123456789abcde" }, database.ErrInvalid,
			"no client can present this key"},
		{"a key with a space", func(n *registry.NewToken) { n.Key = "vel_0123456789 abcdef" }, database.ErrInvalid,
			"no client can present this key"},
		{"a key that is too long", func(n *registry.NewToken) { n.Key = authz.Secret("vel_" + strings.Repeat("a", 509)) },
			database.ErrInvalid, "512 characters at most"},
		{"no API", func(n *registry.NewToken) { n.API = "" }, database.ErrInvalid, "API"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := valid
			c.change(&n)
			token, key, err := f.CreateToken(t.Context(), n)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %+v, %v, want %v with %q", token, err, c.kind, c.want)
			}
			if key != "" || strings.Contains(err.Error(), "pq:") || strings.Contains(err.Error(), existing.Reveal()) {
				t.Errorf("got the key %q, %v", key.Reveal(), err)
			}
		})
	}
}

func TestCreateTokenComparesExpiryWithTheDatabaseClock(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `CREATE SCHEMA ahead`)
	f.Exec(t, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$`)
	r := storetest.Must(registry.Open(t.Context(), storetest.WithOption(f.URL, "search_path", "ahead, pg_catalog")))
	defer func() { _ = r.Close() }()
	n := registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme",
		ExpiresAt: new(time.Now().Add(time.Hour))}
	if _, _, err := r.CreateToken(t.Context(), n); !errors.Is(err, database.ErrInvalid) {
		t.Errorf("the expiry has passed by the database's clock, but not by the local clock: got %v, want ErrInvalid", err)
	}
}

func TestTokensListsNewestFirst(t *testing.T) {
	f := storetest.NewFixture(t)
	one, _ := f.WorkspaceToken(t)
	two, key := f.UserToken(t, "user:read")
	three, _ := f.Create(t, registry.NewToken{Format: storetest.SkLive, API: "velaflows", Name: "t", Workspace: "globex"})
	ids := func(filter registry.TokenFilter) (ids []string) {
		for _, token := range storetest.Must(f.Tokens(t.Context(), filter)) {
			ids = append(ids, token.ID)
		}
		return ids
	}
	for name, c := range map[string]struct {
		filter registry.TokenFilter
		want   []string
	}{
		"all":                   {registry.TokenFilter{}, []string{three.ID, two.ID, one.ID}},
		"a workspace":           {registry.TokenFilter{Workspace: "acme"}, []string{one.ID}},
		"a workspace by id":     {registry.TokenFilter{Workspace: f.Globex.ID}, []string{three.ID}},
		"a user":                {registry.TokenFilter{User: f.Ada.Email}, []string{two.ID}},
		"a user without tokens": {registry.TokenFilter{User: f.Bob.ID}, nil},
	} {
		if got := ids(c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if _, err := f.Tokens(t.Context(), registry.TokenFilter{Workspace: "nowhere"}); !errors.Is(err, database.ErrNotFound) {
		t.Errorf("an unknown workspace: %v", err)
	}
	if _, err := f.Tokens(t.Context(), registry.TokenFilter{User: "nobody"}); !errors.Is(err, database.ErrNotFound) {
		t.Errorf("an unknown user: %v", err)
	}

	d := f.Directory(t, nil)
	found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	d.CountUse(&found.Principal, true)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{User: f.Ada.ID}))[0]
	if used.LastUsedAt == nil || used.LastUsedAt.Before(used.CreatedAt) {
		t.Errorf("the last use in the list is %v", used.LastUsedAt)
	}

	var fields map[string]any
	text := storetest.Must(json.Marshal(used))
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	want := []string{"api", "attributes", "created_at", "created_by", "creator_left", "environment", "expires_at", "id", "kind", "last_used_at", "name", "prefix",
		"revoked_at", "revoked_reason", "scopes", "status", "user_id", "workspace_id"}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("the JSON has the fields %v", got)
	}
	if at := fields["created_at"].(string); !strings.HasSuffix(at, "Z") || fields["expires_at"] != nil ||
		strings.Contains(string(text), key.Reveal()) {
		t.Errorf("the JSON is %s", text)
	}
}

func TestPagesListEachTokenOnce(t *testing.T) {
	f := storetest.NewFixture(t)
	// The tokens have three different creation times, and their ids are not in order.
	f.Exec(t, `INSERT INTO keywicket.tokens
			(api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, created_at)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(n::text::bytea), 't' || n, '{}',
			CASE WHEN n % 5 <> 0 THEN $1 END, CASE WHEN n % 5 = 0 THEN $2 END,
			timestamptz '2020-01-01 00:00:00.000001Z' + n % 3 * interval '1 microsecond'
		FROM generate_series(1, 60) n`, f.Acme.ID, f.Ada.ID)
	for name, filter := range map[string]registry.TokenFilter{
		"all":         {},
		"a workspace": {Workspace: "acme"},
		"a user":      {User: f.Ada.ID},
		"by prefix":   {Prefix: "ve"},
	} {
		for _, limit := range []int{1, 7, 20, 59, 60, 61} {
			allTokens := storetest.Must(f.Tokens(t.Context(), filter))
			var pages []string
			next := filter
			for next.Limit = limit; ; {
				page := storetest.Must(f.Tokens(t.Context(), next))
				if len(page) > limit || len(pages) > len(allTokens) {
					t.Fatalf("%s: %d tokens on a page of %d, after %d of %d tokens", name, len(page), limit, len(pages), len(allTokens))
				}
				if len(page) == 0 {
					break
				}
				for _, token := range page {
					pages = append(pages, token.ID)
				}
				next.After = page[len(page)-1].ID
				f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "meanwhile", Workspace: "acme"})
			}
			var want []string
			for _, token := range allTokens {
				want = append(want, token.ID)
			}
			if !slices.Equal(pages, want) {
				t.Errorf("%s, pages of %d: got %d tokens %v, want %d %v", name, limit, len(pages), pages, len(want), want)
			}
		}
	}
	_, key := f.WorkspaceToken(t)
	for _, after := range []string{"unknown-id", key.Reveal()} {
		_, err := f.Tokens(t.Context(), registry.TokenFilter{After: after})
		if !errors.Is(err, database.ErrNotFound) || strings.Contains(err.Error(), after) {
			t.Errorf("after an unknown token: %v", err)
		}
	}
}

func TestTokensByPrefix(t *testing.T) {
	f := storetest.NewFixture(t)
	for _, prefix := range []string{"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG", `v\e%l_`} {
		f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
			VALUES ('velocity', 'workspace_key', 'live', $1, sha256(convert_to($1, 'UTF8')), 't', '{}', $2)`, prefix, f.Acme.ID)
	}
	for prefix, want := range map[string][]string{
		"":                         {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG", `v\e%l_`},
		"vel":                      {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd", "velXAbCdEfGh", "velu_AbCdEfG"},
		"vel_":                     {"vel_AbCdEfGh", "vel_AbCdEfGx", "vel_AbCd"},
		"vel_AbCdEfGh":             {"vel_AbCdEfGh", "vel_AbCd"}, // the visible part of the second key is shorter
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
		for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{Prefix: prefix})) {
			got = append(got, token.Prefix)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", prefix, got, want)
		}
	}
	if list := storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{Prefix: "vel_", Workspace: "globex"})); len(list) != 0 {
		t.Errorf("in another workspace: %+v", list)
	}
}

func TestListsUseTheirIndexes(t *testing.T) {
	f := storetest.NewFixture(t)
	storetest.Must(tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(20_000, nil))))
	last := storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{Limit: 10_000}))[9_999]
	f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, created_at, expires_at, import_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_old_' || n, sha256(('old' || n)::bytea), 'n', '{}', $1, now() - interval '1 year', now() + n * interval '1 hour', 'i'
		FROM generate_series(1, 300) n`, f.Globex.ID)
	f.Exec(t, `ANALYZE keywicket.tokens`)
	// The index must sort by bytes. On a server that sorts by bytes, every index can search prefixes. So a query plan would not show a
	// wrong collation there.
	if collation := storetest.Value[string](t, f.DB, `SELECT c.collname FROM pg_index i JOIN pg_collation c ON c.oid = i.indcollation[0]
			WHERE i.indexrelid = 'keywicket.tokens_prefix'::regclass`); collation != "C" {
		t.Errorf("the collation of the index is %s", collation)
	}
	for name, c := range map[string]struct {
		filter registry.TokenFilter
		index  string
	}{
		"by prefix":                          {registry.TokenFilter{Prefix: "vel_0000123", Limit: 101}, "tokens_prefix"},
		"by a whole visible prefix":          {registry.TokenFilter{Prefix: "vel_00001234"}, "tokens_prefix"},
		"a page":                             {registry.TokenFilter{Limit: 101}, "tokens_created_at"},
		"a late page":                        {registry.TokenFilter{Limit: 101, After: last.ID}, "tokens_created_at"},
		"a page of a workspace":              {registry.TokenFilter{Limit: 101, Workspace: f.Acme.ID, After: last.ID}, "tokens_workspace_newest"},
		"the oldest tokens, of a workspace":  {registry.TokenFilter{Limit: 101, Workspace: f.Globex.ID}, "tokens_workspace_newest"},
		"expiring tokens of a workspace":     {registry.TokenFilter{Limit: 101, Workspace: f.Globex.ID, ExpiringIn: 24 * time.Hour}, "tokens_workspace_expiry"},
		"unused tokens, among many new ones": {registry.TokenFilter{Limit: 101, UnusedFor: 24 * time.Hour}, "tokens_created_at"},
	} {
		query, args := registry.TokensQuery(c.filter, last.CreatedAt)
		var lines []string
		if err := f.DB.SelectContext(t.Context(), &lines, `EXPLAIN (ANALYZE, TIMING off) `+query, args...); err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if !regexp.MustCompile(c.index).MatchString(plan) || strings.Contains(plan, "Seq Scan on tokens") {
			t.Errorf("%s: the plan is\n%s", name, plan)
		}
		if removed := regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d{3,})`).FindString(plan); removed != "" {
			t.Errorf("%s: the plan reads many more rows than it returns: %s\n%s", name, removed, plan)
		}
	}
}

func TestTokenStatusIsCurrent(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.WorkspaceToken(t)
	status := func() registry.Status { return storetest.Must(f.Token(t.Context(), token.ID)).Status }
	if s := status(); s != registry.Active {
		t.Errorf("a new token is %s", s)
	}
	f.Exec(t, `UPDATE keywicket.tokens SET expires_at = clock_timestamp()`)
	if s := status(); s != registry.Expired {
		t.Errorf("an expired token is %s", s)
	}
	storetest.Must(f.RevokeToken(t.Context(), token.ID))
	if s := status(); s != registry.Revoked {
		t.Errorf("an expired and revoked token is %s", s)
	}
}

func TestRevokeToken(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	token, key := f.WorkspaceToken(t)
	other, otherKey := f.WorkspaceToken(t)
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	first := storetest.Must(f.RevokeToken(t.Context(), token.ID))
	if first.ID != token.ID || first.Status != registry.Revoked || first.RevokedAt == nil {
		t.Errorf("revoked %+v", first)
	}
	if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Denial != authz.ReasonRevoked {
		t.Errorf("the next look-up finds %+v", found)
	}
	if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(otherKey))); found.Principal.ID != other.ID {
		t.Errorf("the other token is %+v", found)
	}
	if again := storetest.Must(f.RevokeToken(t.Context(), token.ID)); !again.RevokedAt.Equal(*first.RevokedAt) {
		t.Errorf("the token was revoked at %v, and again at %v", first.RevokedAt, again.RevokedAt)
	}
	for _, id := range []string{"", "unknown-id", key.Reveal()} {
		_, err := f.RevokeToken(t.Context(), id)
		if !errors.Is(err, database.ErrNotFound) || id != "" && strings.Contains(err.Error(), id) {
			t.Errorf("%v", err)
		}
	}
}

func TestDeletingAnOwnerDeletesTheTokens(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	_, workspaceKey := f.WorkspaceToken(t)
	_, userKey := f.UserToken(t)
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(workspaceKey)))
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Exec(t, `DELETE FROM keywicket.workspaces WHERE slug = 'acme'`)
	f.Exec(t, `DELETE FROM keywicket.users WHERE id = $1`, f.Ada.ID)
	d = f.Directory(t, nil)
	for _, key := range []authz.Secret{workspaceKey, userKey} {
		if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Denial != authz.ReasonUnknown {
			t.Errorf("found %+v", found)
		}
	}
	f.RunUpkeep(t)
	if n := storetest.Value[int](t, f.DB, `SELECT (SELECT count(*) FROM keywicket.token_usage)
			+ (SELECT count(*) FROM keywicket.members)`); n != 0 {
		t.Errorf("%d rows of deleted objects are left", n)
	}
}

func TestTimesAreInUTCInEveryDatabaseTimeZone(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `ALTER DATABASE `+storetest.Value[string](t, f.DB, `SELECT current_database()`)+` SET timezone = 'Asia/Tokyo'`)
	r := storetest.Must(registry.Open(t.Context(), f.URL))
	defer func() { _ = r.Close() }()
	if text := string(storetest.Must(json.Marshal(storetest.Must(r.Users(t.Context()))[0].CreatedAt))); !strings.HasSuffix(text, `Z"`) {
		t.Errorf("a user was created at %s", text)
	}
}
