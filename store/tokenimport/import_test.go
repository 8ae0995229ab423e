package tokenimport_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/store/tokenimport"
)

func countTokens(t testing.TB, f *storetest.Fixture) int {
	t.Helper()
	return storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens`)
}

// lockWaiters returns how many connections wait for a lock.
func lockWaiters(t testing.TB, f *storetest.Fixture) int {
	t.Helper()
	return storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)
}

func TestImportedTokensWork(t *testing.T) {
	f := storetest.NewFixture(t)
	created := time.Date(2020, 2, 29, 12, 0, 0, 123456000, time.UTC)
	expired, revoked := created.Add(time.Hour), created.Add(time.Minute)
	digest := storetest.ProductKey(storetest.Vel, 2).Digest()
	n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.LinesOf(
		tokenimport.Line{Number: 2, Key: storetest.ProductKey(storetest.Vel, 1), Name: "one", Scopes: []string{"issues:read", "issues:write"},
			Workspace: f.Acme.ID, CreatedAt: &created, ExpiresAt: new(time.Now().Add(time.Hour)),
			Attributes: ` {"a\n\\N": "\ttab, \\. and 😀"} `},
		tokenimport.Line{Number: 3, Digest: &digest, Prefix: "vel_0000", Name: "two", Workspace: "globex"},
		tokenimport.Line{Number: 5, Key: storetest.ProductKey(storetest.Vel, 3), Name: "three", Workspace: "acme", CreatedAt: &created,
			ExpiresAt: &expired},
		tokenimport.Line{Number: 6, Key: storetest.ProductKey(storetest.Vel, 4), Name: "four", Workspace: "acme", RevokedAt: &revoked},
	)))
	if n != 4 || err != nil {
		t.Fatalf("imported %d, %v", n, err)
	}
	n, err = tokenimport.Run(t.Context(), f.Registry, tokenimport.Import{Format: storetest.Velu, API: "velocity", Lines: storetest.LinesOf(
		tokenimport.Line{Number: 1, Key: storetest.ProductKey(storetest.Velu, 5), Name: "five", Scopes: []string{"admin"}, User: "ADA@example.com"},
		tokenimport.Line{Number: 2, Key: storetest.ProductKey(storetest.Velu, 6), Name: "six", User: f.Bob.ID},
	)})
	if n != 2 || err != nil {
		t.Fatalf("imported %d, %v", n, err)
	}
	byName := make(map[string]registry.Token)
	for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{})) {
		byName[token.Name] = token
	}
	one, two, five := byName["one"], byName["two"], byName["five"]
	if one.Prefix != "vel_00000001" || one.API != "velocity" || one.Kind != authz.KindWorkspaceKey ||
		one.Environment != authz.Live || *one.WorkspaceID != f.Acme.ID || one.UserID != nil ||
		!slices.Equal(one.Scopes, []string{"issues:read", "issues:write"}) || !one.CreatedAt.Equal(created) ||
		one.Status != registry.Active || one.Attributes != `{"a\n\\N": "\ttab, \\. and 😀"}` {
		t.Errorf("imported %+v", one)
	}
	if two.Prefix != "vel_0000" || *two.WorkspaceID != f.Globex.ID || len(two.Scopes) != 0 || two.ExpiresAt != nil || two.Attributes != "{}" ||
		time.Since(two.CreatedAt) > time.Minute {
		t.Errorf("imported %+v", two)
	}
	if byName["three"].Status != registry.Expired || byName["four"].Status != registry.Revoked ||
		!byName["four"].RevokedAt.Equal(revoked) {
		t.Errorf("imported %+v and %+v", byName["three"], byName["four"])
	}
	if *five.UserID != f.Ada.ID || five.WorkspaceID != nil || *byName["six"].UserID != f.Bob.ID {
		t.Errorf("imported %+v and %+v", five, byName["six"])
	}

	d := f.Directory(t, nil)
	for name, c := range map[string]struct {
		key    authz.Secret
		denial authz.Reason
	}{
		"one": {storetest.ProductKey(storetest.Vel, 1), ""}, "two": {storetest.ProductKey(storetest.Vel, 2), ""}, "three": {storetest.ProductKey(storetest.Vel, 3), authz.ReasonExpired},
		"four": {storetest.ProductKey(storetest.Vel, 4), authz.ReasonRevoked}, "five": {storetest.ProductKey(storetest.Velu, 5), ""}, "six": {storetest.ProductKey(storetest.Velu, 6), ""},
	} {
		found, err := d.Lookup(t.Context(), storetest.Lookup(c.key))
		if err != nil || found.Denial != c.denial || c.denial == "" && found.Principal.ID != byName[name].ID {
			t.Errorf("%s: the look-up returned %+v, %v", name, found, err)
		}
	}
	dump := storetest.Value[string](t, f.DB, `SELECT string_agg(t::text, ' ') FROM keywicket.tokens t`)
	if strings.Contains(dump, "ghijklm") {
		t.Error("a key's secret part is stored")
	}
}

func TestImportReportsWhatIsWrongWithALine(t *testing.T) {
	f := storetest.NewFixture(t)
	existing, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme",
		Key: storetest.ProductKey(storetest.Vel, 99)})
	digest := storetest.ProductKey(storetest.Vel, 7).Digest()
	const secret = "vel_IAmTheSecretOfSomebody"
	later := time.Now().Add(time.Hour)
	withDigest := func(prefix string) func(*tokenimport.Line) {
		return func(l *tokenimport.Line) { l.Key, l.Digest, l.Prefix = "", &digest, prefix }
	}
	for _, c := range []struct {
		name   string
		change func(*tokenimport.Line)
		want   string
	}{
		{"a problem of the parser", func(l *tokenimport.Line) { l.Problem = "it is odd" }, "it is odd"},
		{"no token", func(l *tokenimport.Line) { l.Key = "" }, "neither a token nor a digest"},
		{"a token and a digest", func(l *tokenimport.Line) { l.Digest = &digest }, "both a token and a digest"},
		{"a token and a prefix", func(l *tokenimport.Line) { l.Prefix = "vel_" }, "remove the prefix"},
		{"a token with the prefix of another kind", func(l *tokenimport.Line) { l.Key = "velu_IAmTheSecretOfSomebody" }, "a token starts with vel_"},
		{"a token that is too short", func(l *tokenimport.Line) { l.Key = "vel_0123456789abcde" }, "at least 16 letters"},
		{"a token with a space", func(l *tokenimport.Line) { l.Key = secret + " " }, "no client can send this token"},
		{"a token that is too long", func(l *tokenimport.Line) { l.Key = authz.Secret(secret + strings.Repeat("a", 500)) },
			"at most 512 characters"},
		{"a digest without a prefix", withDigest(""), "must be vel_, followed by at most 8 characters of the key"},
		{"a digest with the prefix of another kind", withDigest("velu_IAm"), "must be vel_, followed by"},
		{"a digest with a prefix that is too long", withDigest("vel_IAmTheSe1"), "at most 8 characters"},
		{"a digest with a zero byte in the prefix", withDigest("vel_\x00"), "must be vel_, followed by"},
		{"no owner", func(l *tokenimport.Line) { l.Workspace = "" },
			"a workspace_key belongs to a workspace: set the workspace, and leave the user empty"},
		{"a user as owner", func(l *tokenimport.Line) { l.Workspace, l.User = "", f.Ada.ID }, "belongs to a workspace"},
		{"two owners", func(l *tokenimport.Line) { l.User = f.Ada.ID }, "belongs to a workspace"},
		{"an unknown owner", func(l *tokenimport.Line) { l.Workspace = "nowhere" }, "no workspace has this id or slug"},
		{"a token as owner", func(l *tokenimport.Line) { l.Workspace = secret }, "no workspace has this"},
		{"an owner that is not UTF-8", func(l *tokenimport.Line) { l.Workspace = "acme\xff" }, "no workspace has this"},
		{"no name", func(l *tokenimport.Line) { l.Name = "" }, "the name is empty"},
		{"a name of white space", func(l *tokenimport.Line) { l.Name = " " }, "the name is empty"},
		{"a token as name, on two lines", func(l *tokenimport.Line) { l.Name = secret + "\nb" }, "has control characters"},
		{"a name with a zero byte", func(l *tokenimport.Line) { l.Name = "a\x00" }, "has control characters"},
		{"an empty scope", func(l *tokenimport.Line) { l.Scopes = []string{"a", ""} }, "scope 2 is empty"},
		{"a scope with a space", func(l *tokenimport.Line) { l.Scopes = []string{secret + " "} }, "scope 1 is empty or has"},
		{"attributes that are not an object", func(l *tokenimport.Line) { l.Attributes = `["` + secret + `"]` }, "attributes: give one JSON object"},
		{"attributes with a duplicate name", func(l *tokenimport.Line) { l.Attributes = `{"` + secret + `": 1, "` + secret + `": 1}` }, "occurs twice"},
		{"attributes that are too long", func(l *tokenimport.Line) {
			l.Attributes = authz.Attributes(`{"a": "` + strings.Repeat(secret, 200) + `"}`)
		}, "attributes: give at most 4096 bytes"},
		{"attributes with a string that Postgres rejects", func(l *tokenimport.Line) { l.Attributes = `{"a": "` + secret + `\u0000"}` }, "attributes: a string"},
		{"an existing token", func(l *tokenimport.Line) { l.Key = storetest.ProductKey(storetest.Vel, 99) }, "this token exists already"},
		{"the digest of an existing token", func(l *tokenimport.Line) {
			existingDigest := storetest.ProductKey(storetest.Vel, 99).Digest()
			l.Key, l.Digest, l.Prefix = "", &existingDigest, "vel_"
		}, "this token exists already"},
		{"a token of an earlier line", func(l *tokenimport.Line) { l.Key = storetest.ProductKey(storetest.Vel, 3) },
			"the same token is already on line 3"},
		{"the digest of an earlier line", func(l *tokenimport.Line) {
			earlierDigest := storetest.ProductKey(storetest.Vel, 3).Digest()
			l.Key, l.Digest, l.Prefix = "", &earlierDigest, "vel_"
		}, "the same token is already on line 3"},
		{"created in the future", func(l *tokenimport.Line) { l.CreatedAt = &later }, "created_at is later than"},
		{"revoked in the future", func(l *tokenimport.Line) { l.RevokedAt = &later }, "revoked_at is later than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(9, func(l *tokenimport.Line) {
				if l.Number == 5 {
					c.change(l)
				}
			})))
			refused, ok := errors.AsType[*tokenimport.Error](err)
			if n != 0 || !ok || !errors.Is(err, database.ErrInvalid) || refused.Bad != 1 || len(refused.Lines) != 1 ||
				refused.Lines[0].Number != 5 || !strings.Contains(refused.Lines[0].Reason, c.want) {
				t.Fatalf("imported %d, %v, %+v, want %q", n, err, refused, c.want)
			}
			if err.Error() != "one line is bad; nothing is imported" || strings.Contains(refused.Lines[0].Reason, "IAmThe") {
				t.Errorf("the error is %q, with the reason %q", err, refused.Lines[0].Reason)
			}
			if list := storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{})); len(list) != 1 || list[0].ID != existing.ID {
				t.Errorf("with a bad line, the tokens are %+v", list)
			}
		})
	}
	_, err := tokenimport.Run(t.Context(), f.Registry, tokenimport.Import{Format: storetest.Velu, API: "velocity", Lines: storetest.LinesOf(
		tokenimport.Line{Number: 1, Key: storetest.ProductKey(storetest.Velu, 1), Name: "t", User: "nobody"},
		tokenimport.Line{Number: 2, Key: storetest.ProductKey(storetest.Velu, 2), Name: "t", Workspace: "acme"},
		tokenimport.Line{Number: 3, Key: storetest.ProductKey(storetest.Velu, 3), Name: "t", User: "a\x00"},
	)})
	want := []tokenimport.BadLine{
		{Number: 1, Reason: "no user has this id or email"},
		{Number: 2, Reason: "a personal_key belongs to a user: set the user, and leave the workspace empty"},
		{Number: 3, Reason: "no user has this id or email"},
	}
	if refused, ok := errors.AsType[*tokenimport.Error](err); !ok || !slices.Equal(refused.Lines, want) {
		t.Errorf("tokens of users: %v, %+v", err, refused)
	}
	wrong := storetest.VelImport(storetest.ProductLines(1, nil))
	wrong.API = "a b"
	_, err = tokenimport.Run(t.Context(), f.Registry, wrong)
	if !errors.Is(err, database.ErrInvalid) || strings.Contains(err.Error(), "pq:") {
		t.Errorf("an invalid API: %v", err)
	}
	wrong.Format.BodyLength = 20
	if _, err := tokenimport.Run(t.Context(), f.Registry, wrong); !errors.Is(err, database.ErrInvalid) {
		t.Errorf("an invalid format: %v", err)
	}
}

func TestImportReportsTheFirstBadLinesAndCountsTheRest(t *testing.T) {
	f := storetest.NewFixture(t)
	_, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(200, func(l *tokenimport.Line) {
		switch l.Number % 4 {
		case 1:
			l.Key = "" // keywicket detects this mistake before it sends the line to the database
		case 3:
			l.Workspace = "nowhere" // the database detects this mistake
		}
	})))
	refused, ok := errors.AsType[*tokenimport.Error](err)
	if !ok || refused.Bad != 100 || err.Error() != "100 lines are bad; nothing is imported" {
		t.Fatalf("got %v", err)
	}
	var numbers, want []int
	for i, l := range refused.Lines {
		numbers, want = append(numbers, l.Number), append(want, 2*i+1)
	}
	if len(numbers) != 20 || !slices.Equal(numbers, want) || countTokens(t, f) != 0 {
		t.Errorf("reported lines: %v", numbers)
	}
}

func TestLastLineIsCheckedLikeTheFirst(t *testing.T) {
	f := storetest.NewFixture(t)
	for _, last := range []func(*tokenimport.Line){
		func(l *tokenimport.Line) { l.Name = "" },
		func(l *tokenimport.Line) { l.Key = storetest.ProductKey(storetest.Vel, 1) },
	} {
		_, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(3000, func(l *tokenimport.Line) {
			if l.Number == 3000 {
				last(l)
			}
		})))
		if refused, ok := errors.AsType[*tokenimport.Error](err); !ok || refused.Lines[0].Number != 3000 || countTokens(t, f) != 0 {
			t.Errorf("%v, and %d tokens", err, countTokens(t, f))
		}
	}
	n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(3000, nil)))
	if n != 3000 || err != nil || countTokens(t, f) != 3000 {
		t.Errorf("imported %d, %v", n, err)
	}
	if n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(0, nil))); n != 0 || err != nil {
		t.Errorf("imported %d tokens of an empty input, %v", n, err)
	}
}

func TestTruncatedImportStoresNothing(t *testing.T) {
	f := storetest.NewFixture(t)
	broken := errors.New("the disk is broken")
	_, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(func(yield func(tokenimport.Line, error) bool) {
		for l, err := range storetest.ProductLines(2000, nil) {
			yield(l, err)
		}
		yield(tokenimport.Line{}, broken)
	}))
	if !errors.Is(err, broken) || countTokens(t, f) != 0 {
		t.Errorf("an input error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = tokenimport.Run(ctx, f.Registry, storetest.VelImport(storetest.ProductLines(2000, func(l *tokenimport.Line) {
		if l.Number == 1000 {
			cancel()
		}
	})))
	if !errors.Is(err, context.Canceled) || countTokens(t, f) != 0 {
		t.Errorf("the context is canceled: %v", err)
	}

	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.tokens IN SHARE MODE`))
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := tokenimport.Run(ctx, f.Registry, storetest.VelImport(storetest.ProductLines(10, nil)))
		done <- err
	}()
	storetest.Eventually(t, "the import waits for a lock", func() bool { return lockWaiters(t, f) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the context is canceled during a query: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(10, nil))); n != 10 || err != nil || countTokens(t, f) != 10 {
		t.Errorf("after the canceled import: %d, %v", n, err)
	}
}

func TestImportDuringCreationOfTheSameToken(t *testing.T) {
	f := storetest.NewFixture(t)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	digest := storetest.ProductKey(storetest.Vel, 5).Digest()
	storetest.Must(tx.ExecContext(t.Context(), `INSERT INTO keywicket.tokens
			(api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		VALUES ('velocity', 'workspace_key', 'live', 'vel_', $1, 't', '{}', $2)`, digest[:], f.Acme.ID))
	done := make(chan error)
	go func() {
		_, err := tokenimport.Run(context.Background(), f.Registry, storetest.VelImport(storetest.ProductLines(10, nil)))
		done <- err
	}()
	storetest.Eventually(t, "the import waits for the other transaction", func() bool { return lockWaiters(t, f) == 1 })
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, database.ErrExists) || strings.Contains(err.Error(), "pq:") || countTokens(t, f) != 1 {
		t.Errorf("%v, and %d tokens", err, countTokens(t, f))
	}
}

func TestImportKeepsOneLineInMemory(t *testing.T) {
	f := storetest.NewFixture(t)
	const lines = 50_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var early, late int64
	n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(lines, func(l *tokenimport.Line) {
		l.Name = strings.Repeat("n", 100)
		switch l.Number {
		case 1000:
			early = heap()
		case lines:
			late = heap()
		}
	})))
	if n != lines || err != nil || countTokens(t, f) != lines {
		t.Fatalf("imported %d, %v", n, err)
	}
	if grown := late - early; grown > 2<<20 { // the input has more than 6 MiB
		t.Errorf("from line 1,000 to line 50,000, the heap grew by %d bytes", grown)
	}
}

// A query plan that Postgres made for an almost empty table reads the whole table. If the import did not run ANALYZE, Postgres
// would use this plan until autovacuum runs.
func TestImportUpdatesQueryPlans(t *testing.T) {
	f := storetest.NewFixture(t)
	// When a connection creates its first temporary table, all connections make new plans as a side effect. This first import
	// causes the side effect now, so that the import below cannot cause it.
	storetest.Must(tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.LinesOf(storetest.ProductLine(9999)))))
	f.Exec(t, `VACUUM ANALYZE keywicket.tokens`)
	sidecar := storetest.OpenDB(t, storetest.WithOption(f.URL, "plan_cache_mode", "force_generic_plan"))
	sidecar.SetMaxOpenConns(1)
	storetest.Must(sidecar.ExecContext(t.Context(), `PREPARE q AS `+lookup.TokenQuery))
	plan := func() string {
		var lines []string
		if err := sidecar.SelectContext(t.Context(), &lines, `EXPLAIN EXECUTE q('{""}', '{velocity}', '{""}', '{""}')`); err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "\n")
	}
	const wrong = "Seq Scan on tokens"
	if p := plan(); !strings.Contains(p, wrong) {
		t.Fatalf("with one token the plan already uses an index, so the test proves nothing:\n%s", p)
	}
	storetest.Must(tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(5000, nil))))
	if p := plan(); strings.Contains(p, wrong) {
		t.Errorf("after the import the plan is still\n%s", p)
	}
}

func TestImportUsesTheDatabaseClock(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `CREATE SCHEMA ahead`)
	f.Exec(t, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$`)
	r := storetest.Must(registry.Open(t.Context(), storetest.WithOption(f.URL, "search_path", "ahead, pg_catalog")))
	defer func() { _ = r.Close() }()
	later := time.Now().Add(time.Hour)
	_, err := tokenimport.Run(t.Context(), r, storetest.VelImport(storetest.ProductLines(1, func(l *tokenimport.Line) { l.CreatedAt = &later })))
	if err != nil {
		t.Errorf("a time in one hour, which is an hour ago by the database's clock: %v", err)
	}
}

// A database or a role may set standard_conforming_strings to off. If keywicket did not override the setting, backslashes would
// be lost.
func TestBackslashesAreKept(t *testing.T) {
	url := storetest.EmptyDatabase(t)
	storetest.Must(storetest.OpenDB(t, url).ExecContext(t.Context(), `ALTER DATABASE `+storetest.DatabaseOf(url)+` SET standard_conforming_strings = off`))
	storetest.Must(storetest.OpenDB(t, url).ExecContext(t.Context(), `ALTER DATABASE `+storetest.DatabaseOf(url)+` SET escape_string_warning = off`))
	raw := storetest.Must(sql.Open("postgres", url))
	t.Cleanup(func() { _ = raw.Close() })
	var setting string
	if err := raw.QueryRowContext(t.Context(), `SHOW standard_conforming_strings`).Scan(&setting); err != nil || setting != "off" {
		t.Fatalf("the setting is %s: the test proves nothing; %v", setting, err)
	}
	for _, url := range []string{url, storetest.WithOption(url, "options", "-c standard_conforming_strings=off"), storetest.WithOption(url, "Standard_Conforming_Strings", "off")} {
		f := &storetest.Fixture{DB: storetest.OpenDB(t, url)}
		storetest.Must(schema.Migrate(t.Context(), f.DB))
		f.Registry = storetest.Must(registry.Open(t.Context(), url))
		slug := fmt.Sprintf("w%d", storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.workspaces`))
		storetest.Must(f.CreateWorkspace(t.Context(), registry.Workspace{Slug: slug, Name: "ordinary"}))
		line := storetest.ProductLine(1 + countTokens(t, f))
		line.Workspace, line.Name = slug, `a \b name`
		if n, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.LinesOf(line))); n != 1 || err != nil {
			t.Errorf("imported %d, %v", n, err)
		}
		_ = f.Close()
	}
}
