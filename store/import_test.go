package store_test

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
	"github.com/keywicket/keywicket/store"
)

func tokens(t testing.TB, f *fixture) int {
	t.Helper()
	return value[int](t, f.db, `SELECT count(*) FROM keywicket.tokens`)
}

// waiting returns how many connections wait for a lock.
func waiting(t testing.TB, f *fixture) int {
	t.Helper()
	return value[int](t, f.db, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)
}

func TestImportedTokensAreGood(t *testing.T) {
	f := newFixture(t)
	created := time.Date(2020, 2, 29, 12, 0, 0, 123456000, time.UTC)
	expired, revoked := created.Add(time.Hour), created.Add(time.Minute)
	digest := oldKey(vel, 2).Digest()
	n, err := store.ImportTokens(t.Context(), f.Registry, velImport(linesOf(
		store.ImportLine{Number: 2, Key: oldKey(vel, 1), Name: "one", Scopes: []string{"issues:read", "issues:write"},
			Workspace: f.acme.ID, CreatedAt: &created, ExpiresAt: new(time.Now().Add(time.Hour)),
			Attributes: ` {"a\n\\N": "\ttab, \\. and 😀"} `},
		store.ImportLine{Number: 3, Digest: &digest, Prefix: "vel_0000", Name: "two", Workspace: "globex"},
		store.ImportLine{Number: 5, Key: oldKey(vel, 3), Name: "three", Workspace: "acme", CreatedAt: &created,
			ExpiresAt: &expired},
		store.ImportLine{Number: 6, Key: oldKey(vel, 4), Name: "four", Workspace: "acme", RevokedAt: &revoked},
	)))
	if n != 4 || err != nil {
		t.Fatalf("imported %d, %v", n, err)
	}
	n, err = store.ImportTokens(t.Context(), f.Registry, store.Import{Format: velu, API: "velocity", Lines: linesOf(
		store.ImportLine{Number: 1, Key: oldKey(velu, 5), Name: "five", Scopes: []string{"admin"}, User: "ADA@example.com"},
		store.ImportLine{Number: 2, Key: oldKey(velu, 6), Name: "six", User: f.bob.ID},
	)})
	if n != 2 || err != nil {
		t.Fatalf("imported %d, %v", n, err)
	}
	byName := make(map[string]store.Token)
	for _, token := range must(f.Tokens(t.Context(), store.TokenFilter{})) {
		byName[token.Name] = token
	}
	one, two, five := byName["one"], byName["two"], byName["five"]
	if one.Prefix != "vel_00000001" || one.API != "velocity" || one.Kind != authz.KindWorkspaceKey ||
		one.Environment != authz.Live || *one.WorkspaceID != f.acme.ID || one.UserID != nil ||
		!slices.Equal(one.Scopes, []string{"issues:read", "issues:write"}) || !one.CreatedAt.Equal(created) ||
		one.Status != store.Active || one.Attributes != `{"a\n\\N": "\ttab, \\. and 😀"}` {
		t.Errorf("imported %+v", one)
	}
	if two.Prefix != "vel_0000" || *two.WorkspaceID != f.globex.ID || len(two.Scopes) != 0 || two.ExpiresAt != nil || two.Attributes != "{}" ||
		time.Since(two.CreatedAt) > time.Minute {
		t.Errorf("imported %+v", two)
	}
	if byName["three"].Status != store.Expired || byName["four"].Status != store.Revoked ||
		!byName["four"].RevokedAt.Equal(revoked) {
		t.Errorf("imported %+v and %+v", byName["three"], byName["four"])
	}
	if *five.UserID != f.ada.ID || five.WorkspaceID != nil || *byName["six"].UserID != f.bob.ID {
		t.Errorf("imported %+v and %+v", five, byName["six"])
	}

	d := f.directory(t, nil)
	for name, c := range map[string]struct {
		key    authz.Secret
		denial authz.Reason
	}{
		"one": {oldKey(vel, 1), ""}, "two": {oldKey(vel, 2), ""}, "three": {oldKey(vel, 3), authz.ReasonExpired},
		"four": {oldKey(vel, 4), authz.ReasonRevoked}, "five": {oldKey(velu, 5), ""}, "six": {oldKey(velu, 6), ""},
	} {
		found, err := d.Lookup(t.Context(), lookup(c.key))
		if err != nil || found.Denial != c.denial || c.denial == "" && found.Principal.ID != byName[name].ID {
			t.Errorf("%s: a check finds %+v, %v", name, found, err)
		}
	}
	dump := value[string](t, f.db, `SELECT string_agg(t::text, ' ') FROM keywicket.tokens t`)
	if strings.Contains(dump, "ghijklm") {
		t.Error("a key's secret part is stored")
	}
}

func TestImportTellsWhatIsWrongWithALine(t *testing.T) {
	f := newFixture(t)
	taken, _ := f.create(t, store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme",
		Key: oldKey(vel, 99)})
	some := oldKey(vel, 7).Digest()
	const secret = "vel_IAmTheSecretOfSomebody"
	later := time.Now().Add(time.Hour)
	withDigest := func(prefix string) func(*store.ImportLine) {
		return func(l *store.ImportLine) { l.Key, l.Digest, l.Prefix = "", &some, prefix }
	}
	for _, c := range []struct {
		name   string
		change func(*store.ImportLine)
		want   string
	}{
		{"what could not be read", func(l *store.ImportLine) { l.Bad = "it is odd" }, "it is odd"},
		{"no token", func(l *store.ImportLine) { l.Key = "" }, "neither a token nor a digest"},
		{"a token and a digest", func(l *store.ImportLine) { l.Digest = &some }, "both a token and a digest"},
		{"a token and a prefix", func(l *store.ImportLine) { l.Prefix = "vel_" }, "prefix goes with a digest"},
		{"another prefix", func(l *store.ImportLine) { l.Key = "velu_IAmTheSecretOfSomebody" }, "it starts with vel_"},
		{"a token that can be guessed", func(l *store.ImportLine) { l.Key = "vel_0123456789abcde" }, "at least 16 letters"},
		{"a token with a blank", func(l *store.ImportLine) { l.Key = secret + " " }, "one that a client could present"},
		{"a token that is too long", func(l *store.ImportLine) { l.Key = authz.Secret(secret + strings.Repeat("a", 500)) },
			"512 characters at most"},
		{"a digest without a prefix", withDigest(""), "is vel_ and of what follows in the key 8 characters at most"},
		{"a digest with another prefix", withDigest("velu_IAm"), "is vel_ and of"},
		{"a digest with too much of a key", withDigest("vel_IAmTheSe1"), "8 characters at most"},
		{"a digest with an odd prefix", withDigest("vel_\x00"), "is vel_ and of"},
		{"no owner", func(l *store.ImportLine) { l.Workspace = "" },
			"a workspace_key belongs to a workspace: name one, and no user"},
		{"a user's", func(l *store.ImportLine) { l.Workspace, l.User = "", f.ada.ID }, "belongs to a workspace"},
		{"two owners", func(l *store.ImportLine) { l.User = f.ada.ID }, "belongs to a workspace"},
		{"an unknown owner", func(l *store.ImportLine) { l.Workspace = "nowhere" }, "no workspace has this id or slug"},
		{"a token for an owner", func(l *store.ImportLine) { l.Workspace = secret }, "no workspace has this"},
		{"an owner that is no text", func(l *store.ImportLine) { l.Workspace = "acme\xff" }, "no workspace has this"},
		{"no name", func(l *store.ImportLine) { l.Name = "" }, "the name is empty"},
		{"a blank name", func(l *store.ImportLine) { l.Name = " " }, "the name is empty"},
		{"a token for a name, on two lines", func(l *store.ImportLine) { l.Name = secret + "\nb" }, "has control characters"},
		{"a name that is no text", func(l *store.ImportLine) { l.Name = "a\x00" }, "has control characters"},
		{"an empty scope", func(l *store.ImportLine) { l.Scopes = []string{"a", ""} }, "scope 2 is empty"},
		{"a scope with a blank", func(l *store.ImportLine) { l.Scopes = []string{secret + " "} }, "scope 1 is empty or has"},
		{"attributes that are no object", func(l *store.ImportLine) { l.Attributes = `["` + secret + `"]` }, "attributes: give one JSON object"},
		{"attributes with a name twice", func(l *store.ImportLine) { l.Attributes = `{"` + secret + `": 1, "` + secret + `": 1}` }, "second time"},
		{"attributes that are too long", func(l *store.ImportLine) {
			l.Attributes = authz.Attributes(`{"a": "` + strings.Repeat(secret, 200) + `"}`)
		}, "attributes: give at most 4096 bytes"},
		{"attributes that Postgres takes for no text", func(l *store.ImportLine) { l.Attributes = `{"a": "` + secret + `\u0000"}` }, "attributes: a text"},
		{"a token that is there", func(l *store.ImportLine) { l.Key = oldKey(vel, 99) }, "there is this token already"},
		{"a digest that is there", func(l *store.ImportLine) {
			there := oldKey(vel, 99).Digest()
			l.Key, l.Digest, l.Prefix = "", &there, "vel_"
		}, "there is this token already"},
		{"a token that was in a line before", func(l *store.ImportLine) { l.Key = oldKey(vel, 3) },
			"it is the token of line 3 again"},
		{"the digest of one before", func(l *store.ImportLine) {
			before := oldKey(vel, 3).Digest()
			l.Key, l.Digest, l.Prefix = "", &before, "vel_"
		}, "it is the token of line 3 again"},
		{"created in the future", func(l *store.ImportLine) { l.CreatedAt = &later }, "created_at lies in the future"},
		{"revoked in the future", func(l *store.ImportLine) { l.RevokedAt = &later }, "revoked_at lies in the future"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(9, func(l *store.ImportLine) {
				if l.Number == 5 {
					c.change(l)
				}
			})))
			refused, ok := errors.AsType[*store.ImportError](err)
			if n != 0 || !ok || !errors.Is(err, store.ErrInvalid) || refused.Bad != 1 || len(refused.Lines) != 1 ||
				refused.Lines[0].Number != 5 || !strings.Contains(refused.Lines[0].Reason, c.want) {
				t.Fatalf("imported %d, %v, %+v, want %q", n, err, refused, c.want)
			}
			if err.Error() != "one line is bad; nothing is imported" || strings.Contains(refused.Lines[0].Reason, "IAmThe") {
				t.Errorf("it says %q of %q", err, refused.Lines[0].Reason)
			}
			if list := must(f.Tokens(t.Context(), store.TokenFilter{})); len(list) != 1 || list[0].ID != taken.ID {
				t.Errorf("beside a bad line, there is %+v", list)
			}
		})
	}
	_, err := store.ImportTokens(t.Context(), f.Registry, store.Import{Format: velu, API: "velocity", Lines: linesOf(
		store.ImportLine{Number: 1, Key: oldKey(velu, 1), Name: "t", User: "nobody"},
		store.ImportLine{Number: 2, Key: oldKey(velu, 2), Name: "t", Workspace: "acme"},
		store.ImportLine{Number: 3, Key: oldKey(velu, 3), Name: "t", User: "a\x00"},
	)})
	want := []store.BadLine{
		{Number: 1, Reason: "no user has this id or email"},
		{Number: 2, Reason: "a personal_key belongs to a user: name one, and no workspace"},
		{Number: 3, Reason: "no user has this id or email"},
	}
	if refused, ok := errors.AsType[*store.ImportError](err); !ok || !slices.Equal(refused.Lines, want) {
		t.Errorf("of a user's tokens: %v, %+v", err, refused)
	}
	wrong := velImport(oldLines(1, nil))
	wrong.API = "a b"
	_, err = store.ImportTokens(t.Context(), f.Registry, wrong)
	if !errors.Is(err, store.ErrInvalid) || strings.Contains(err.Error(), "pq:") {
		t.Errorf("for an API that cannot be: %v", err)
	}
	wrong.Format.BodyLength = 20
	if _, err := store.ImportTokens(t.Context(), f.Registry, wrong); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("for a format that is none: %v", err)
	}
}

func TestImportTellsTheFirstBadLinesInOrderAndCountsTheOthers(t *testing.T) {
	f := newFixture(t)
	_, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(200, func(l *store.ImportLine) {
		switch l.Number % 4 {
		case 1:
			l.Key = "" // detected before the line reaches the database
		case 3:
			l.Workspace = "nowhere" // detected by the database
		}
	})))
	refused, ok := errors.AsType[*store.ImportError](err)
	if !ok || refused.Bad != 100 || err.Error() != "100 lines are bad; nothing is imported" {
		t.Fatalf("got %v", err)
	}
	var numbers, want []int
	for i, l := range refused.Lines {
		numbers, want = append(numbers, l.Number), append(want, 2*i+1)
	}
	if len(numbers) != 20 || !slices.Equal(numbers, want) || tokens(t, f) != 0 {
		t.Errorf("reported lines: %v", numbers)
	}
}

func TestTheLastLineDecidesAsMuchAsTheFirst(t *testing.T) {
	f := newFixture(t)
	for _, last := range []func(*store.ImportLine){
		func(l *store.ImportLine) { l.Name = "" },
		func(l *store.ImportLine) { l.Key = oldKey(vel, 1) },
	} {
		_, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(3000, func(l *store.ImportLine) {
			if l.Number == 3000 {
				last(l)
			}
		})))
		if refused, ok := errors.AsType[*store.ImportError](err); !ok || refused.Lines[0].Number != 3000 || tokens(t, f) != 0 {
			t.Errorf("%v, and %d tokens", err, tokens(t, f))
		}
	}
	n, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(3000, nil)))
	if n != 3000 || err != nil || tokens(t, f) != 3000 {
		t.Errorf("imported %d, %v", n, err)
	}
	if n, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(0, nil))); n != 0 || err != nil {
		t.Errorf("imported %d of none, %v", n, err)
	}
}

func TestAnImportThatIsCutOffLeavesNothing(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("the disk is broken")
	_, err := store.ImportTokens(t.Context(), f.Registry, velImport(func(yield func(store.ImportLine, error) bool) {
		for l, err := range oldLines(2000, nil) {
			yield(l, err)
		}
		yield(store.ImportLine{}, broken)
	}))
	if !errors.Is(err, broken) || tokens(t, f) != 0 {
		t.Errorf("the input breaks off: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = store.ImportTokens(ctx, f.Registry, velImport(oldLines(2000, func(l *store.ImportLine) {
		if l.Number == 1000 {
			cancel()
		}
	})))
	if !errors.Is(err, context.Canceled) || tokens(t, f) != 0 {
		t.Errorf("the operator has enough: %v", err)
	}

	tx := must(f.db.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	must(tx.ExecContext(t.Context(), `LOCK keywicket.tokens IN SHARE MODE`))
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := store.ImportTokens(ctx, f.Registry, velImport(oldLines(10, nil)))
		done <- err
	}()
	eventually(t, "the import waits for a lock", func() bool { return waiting(t, f) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the operator has enough while the database works: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(10, nil))); n != 10 || err != nil || tokens(t, f) != 10 {
		t.Errorf("and afterwards: %d, %v", n, err)
	}
}

func TestImportBesideSomebodyWhoCreatesTheSameToken(t *testing.T) {
	f := newFixture(t)
	tx := must(f.db.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	digest := oldKey(vel, 5).Digest()
	must(tx.ExecContext(t.Context(), `INSERT INTO keywicket.tokens
			(api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		VALUES ('velocity', 'workspace_key', 'live', 'vel_', $1, 't', '{}', $2)`, digest[:], f.acme.ID))
	done := make(chan error)
	go func() {
		_, err := store.ImportTokens(context.Background(), f.Registry, velImport(oldLines(10, nil)))
		done <- err
	}()
	eventually(t, "the import waits for the other one", func() bool { return waiting(t, f) == 1 })
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, store.ErrExists) || strings.Contains(err.Error(), "pq:") || tokens(t, f) != 1 {
		t.Errorf("%v, and %d tokens", err, tokens(t, f))
	}
}

func TestImportHoldsOneLineAtATime(t *testing.T) {
	f := newFixture(t)
	const lines = 50_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var early, late int64
	n, err := store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(lines, func(l *store.ImportLine) {
		l.Name = strings.Repeat("n", 100)
		switch l.Number {
		case 1000:
			early = heap()
		case lines:
			late = heap()
		}
	})))
	if n != lines || err != nil || tokens(t, f) != lines {
		t.Fatalf("imported %d, %v", n, err)
	}
	if grown := late - early; grown > 2<<20 { // what it reads is more than 6 MiB
		t.Errorf("from line 1,000 to line 50,000 it grew by %d bytes", grown)
	}
}

// A plan from when the table was almost empty reads the whole table. Without the import's ANALYZE, it would be used until autovacuum.
func TestImportMakesSidecarsPlanAnew(t *testing.T) {
	f := newFixture(t)
	// A connection's first temporary table has the side effect that all connections plan again. This connection has had its first.
	must(store.ImportTokens(t.Context(), f.Registry, velImport(linesOf(oldLine(9999)))))
	f.exec(t, `VACUUM ANALYZE keywicket.tokens`)
	sidecar := openDB(t, with(f.url, "plan_cache_mode", "force_generic_plan"))
	sidecar.SetMaxOpenConns(1)
	must(sidecar.ExecContext(t.Context(), `PREPARE q AS `+store.LookupQuery))
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
	must(store.ImportTokens(t.Context(), f.Registry, velImport(oldLines(5000, nil))))
	if p := plan(); strings.Contains(p, wrong) {
		t.Errorf("after the import the plan is still\n%s", p)
	}
}

func TestImportJudgesTheFutureByTheDatabaseClock(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `CREATE SCHEMA ahead`)
	f.exec(t, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$`)
	r := must(store.OpenRegistry(t.Context(), with(f.url, "search_path", "ahead, pg_catalog")))
	defer func() { _ = r.Close() }()
	later := time.Now().Add(time.Hour)
	_, err := store.ImportTokens(t.Context(), r, velImport(oldLines(1, func(l *store.ImportLine) { l.CreatedAt = &later })))
	if err != nil {
		t.Errorf("in an hour, an hour ago for the database: %v", err)
	}
}

// A database or a role may set standard_conforming_strings to off. Then a backslash would be lost.
func TestBackslashesAreKept(t *testing.T) {
	url := emptyDatabase(t)
	must(openDB(t, url).ExecContext(t.Context(), `ALTER DATABASE `+databaseOf(url)+` SET standard_conforming_strings = off`))
	must(openDB(t, url).ExecContext(t.Context(), `ALTER DATABASE `+databaseOf(url)+` SET escape_string_warning = off`))
	raw := must(sql.Open("postgres", url))
	t.Cleanup(func() { _ = raw.Close() })
	var setting string
	if err := raw.QueryRowContext(t.Context(), `SHOW standard_conforming_strings`).Scan(&setting); err != nil || setting != "off" {
		t.Fatalf("it is %s: the test proves nothing; %v", setting, err)
	}
	for _, url := range []string{url, with(url, "options", "-c standard_conforming_strings=off"), with(url, "Standard_Conforming_Strings", "off")} {
		f := &fixture{db: openDB(t, url)}
		must(store.Migrate(t.Context(), f.db))
		f.Registry = must(store.OpenRegistry(t.Context(), url))
		slug := fmt.Sprintf("w%d", value[int](t, f.db, `SELECT count(*) FROM keywicket.workspaces`))
		must(f.CreateWorkspace(t.Context(), store.Workspace{Slug: slug, Name: "ordinary"}))
		line := oldLine(1 + tokens(t, f))
		line.Workspace, line.Name = slug, `a \b name`
		if n, err := store.ImportTokens(t.Context(), f.Registry, velImport(linesOf(line))); n != 1 || err != nil {
			t.Errorf("imported %d, %v", n, err)
		}
		_ = f.Close()
	}
}
