package auditlog_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/store/tokenimport"
)

// entries returns the entries after the id, oldest first.
func entries(t *testing.T, r *registry.Registry, f auditlog.Filter) []auditlog.Entry {
	t.Helper()
	var all []auditlog.Entry
	for e, err := range auditlog.Entries(t.Context(), r, f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// last returns the id of the latest entry.
func last(t *testing.T, f *storetest.Fixture) int64 {
	t.Helper()
	return storetest.Value[int64](t, f.DB, `SELECT COALESCE(max(id), 0) FROM keywicket.audit_log`)
}

func text(p *string) string {
	if p == nil {
		return "-"
	}
	return *p
}

// TestEachChangeHasAnEntry changes each audited table in each way, with SQL by hand, and compares the entries.
func TestEachChangeHasAnEntry(t *testing.T) {
	f := storetest.NewFixture(t)
	login := storetest.Value[string](t, f.DB, `SELECT session_user::text`)
	id, ws, ada, bob := "64f1a2b3c4d5e6f7a8b90000", f.Acme.ID, f.Ada.ID, f.Bob.ID
	const digest = `sha256('a')`
	for _, c := range []struct{ statement, want string }{
		{`INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('` + id + `', 'new', 'New')`, "create workspace " + id + " New " + id + " -"},
		{`UPDATE keywicket.workspaces SET name = 'Newer' WHERE id = '` + id + `'`, `change workspace ` + id + ` Newer ` + id + ` - {"name": "New"} {"name": "Newer"}`},
		{`UPDATE keywicket.workspaces SET name = name`, ""},
		{`DELETE FROM keywicket.workspaces WHERE id = '` + id + `'`, "delete workspace " + id + " Newer " + id + " -"},
		{`INSERT INTO keywicket.users (id, email) VALUES ('eve', 'eve@example.com')`, "create user eve eve@example.com - eve"},
		{`UPDATE keywicket.users SET id = 'eva' WHERE id = 'eve'`, "create user eva eve@example.com - eva; delete user eve eve@example.com - eve"},
		{`DELETE FROM keywicket.users WHERE id = 'eva'`, "delete user eva eve@example.com - eva"},
		{`DELETE FROM keywicket.members WHERE user_id = '` + ada + `' AND workspace_id = '` + ws + `'`, "delete member " + ws + "/" + ada + " - " + ws + " " + ada},
		{`INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES ('` + ws + `', '` + ada + `', 'guest')`, "create member " + ws + "/" + ada + " - " + ws + " " + ada},
		{
			`UPDATE keywicket.members SET role = 'admin' WHERE user_id = '` + ada + `' AND workspace_id = '` + ws + `'`,
			"change member " + ws + "/" + ada + " - " + ws + " " + ada + ` {"role": "guest"} {"role": "admin"}`,
		},
		{
			`INSERT INTO keywicket.tokens (id, api, kind, environment, visible_prefix, digest, name, scopes, user_id)
				VALUES ('t1', 'velocity', 'personal_key', 'live', 'velu_', ` + digest + `, 'one', '{}', '` + ada + `'),
				       ('t2', 'velocity', 'personal_key', 'live', 'velu_', sha256('b'), 'two', '{}', '` + bob + `')`,
			"create token t1 one - " + ada + "; create token t2 two - " + bob,
		},
		{`UPDATE keywicket.tokens SET scopes = '{user:read}' WHERE id = 't1'`, "change token t1 one - " + ada + ` {"scopes": []} {"scopes": ["user:read"]}`},
		{`UPDATE keywicket.tokens SET digest = sha256('c') WHERE id = 't1'`, "rotate token t1 one - " + ada + " {} {}"},
		{`UPDATE keywicket.tokens SET revoked_at = '2026-01-01Z' WHERE id LIKE 't_'`, "revoke token t1 one - " + ada + "; revoke token t2 two - " + bob},
		{`UPDATE keywicket.tokens SET revoked_at = NULL WHERE id = 't1'`, "restore token t1 one - " + ada},
		{`DELETE FROM keywicket.tokens WHERE id LIKE 't_'`, "delete token t1 one - " + ada + "; delete token t2 two - " + bob},
		{`INSERT INTO keywicket.revoked_sessions (session_id) OVERRIDING SYSTEM VALUE VALUES ('s1')`, "revoke session * - - -"},
		{`INSERT INTO keywicket.revoked_sessions (user_id) VALUES ('` + ada + `')`, "revoke session * - - " + ada},
		{
			`INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential)
				VALUES ('app', 'velocity', 'App', '{https://app.example/}', ` + digest + `, false)`,
			"create app app App - -",
		},
		{`UPDATE keywicket.oauth_apps SET secret_digest = sha256('d') WHERE id = 'app'`, "rotate app app App - - {} {}"},
		{`INSERT INTO keywicket.oauth_grants (id, app_id, user_id, scopes) VALUES ('g', 'app', '` + ada + `', '{}')`, "create grant g - - " + ada},
		{`INSERT INTO keywicket.oauth_grant_workspaces VALUES ('g', '` + ws + `')`, "create grant_workspace g/" + ws + " - " + ws + " -"},
		{`UPDATE keywicket.oauth_grants SET revoked_at = '2026-01-01Z' WHERE id = 'g'`, "revoke grant g - - " + ada},
		{
			`DELETE FROM keywicket.oauth_apps WHERE id = 'app'`, // and by its foreign keys
			"delete app app App - -; delete grant g - - " + ada + "; delete grant_workspace g/" + ws + " - " + ws + " -",
		},
		{`TRUNCATE keywicket.revoked_sessions`, "truncate session - - - -"},
		{`INSERT INTO keywicket.token_usage VALUES ('t1', now())`, ""},
		{`INSERT INTO keywicket.token_use VALUES ('t1', now(), 1, 0)`, ""},
	} {
		before := last(t, f)
		f.Exec(t, c.statement)
		var got []string
		for _, e := range entries(t, f.Registry, auditlog.Filter{After: before, OldestFirst: true}) {
			line := fmt.Sprintf("%s %s %s %s %s %s", e.Action, e.ObjectKind, text(e.ObjectID), text(e.ObjectName), text(e.WorkspaceID), text(e.UserID))
			if e.Action == "change" || e.Action == "rotate" {
				line += " " + string(*e.Before) + " " + string(*e.After)
			}
			if e.ObjectKind == "session" && e.ObjectID != nil {
				line = strings.Replace(line, *e.ObjectID, "*", 1)
			}
			if e.Login != login || e.ActorID != nil || e.ActorKind != nil || time.Since(e.At).Abs() > time.Minute {
				t.Errorf("%s: %+v", c.statement, e)
			}
			if hasBefore, hasAfter := e.Before != nil, e.After != nil; e.Action != "truncate" &&
				(hasBefore != (e.Action != "create" && line[:14] != "revoke session") || hasAfter != (e.Action != "delete")) {
				t.Errorf("%s: before %v, after %v", line, hasBefore, hasAfter)
			}
			got = append(got, line)
		}
		slices.Sort(got)
		if joined := strings.Join(got, "; "); joined != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.statement, joined, c.want)
		}
	}
	f.Exec(t, `DELETE FROM keywicket.oauth_apps`)
	if all := storetest.Value[string](t, f.DB, `SELECT string_agg(a::text, ' ') FROM keywicket.audit_log a`); strings.Contains(all, "digest") {
		t.Error("the audit log contains a digest")
	}
}

// TestRegistryWritesNoSecret creates each kind of secret. The audit log contains neither the secret nor its digest.
func TestRegistryWritesNoSecret(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	_, key := g.WorkspaceToken(t, "issues:read")
	pair := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID))
	app, secret, err := g.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "App", RedirectURIs: []string{"https://app.example/"}})
	if err != nil {
		t.Fatal(err)
	}
	all := storetest.Value[string](t, g.DB, `SELECT string_agg(a::text, ' ') FROM keywicket.audit_log a`)
	if !strings.Contains(all, app.ID) {
		t.Errorf("the audit log does not contain the app %s: %s", app.ID, all)
	}
	for name, s := range map[string]authz.Secret{"key": key, "access token": pair.Access, "refresh token": pair.Refresh, "client secret": secret} {
		digest := s.Digest()
		if strings.Contains(all, s.Reveal()) || strings.Contains(all, hex.EncodeToString(digest[:])) {
			t.Errorf("the audit log contains the %s or its digest", name)
		}
	}
}

// TestTransactions tests that an entry exists exactly if the change is committed.
func TestTransactions(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.WorkspaceToken(t)
	before := last(t, f)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.ExecContext(t.Context(), `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = $1`, token.ID))
	if inside := 0; tx.Get(&inside, `SELECT count(*) FROM keywicket.audit_log WHERE id > $1`, before) != nil || inside != 1 {
		t.Errorf("%d entries in the transaction", inside)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, f.Registry, auditlog.Filter{After: before, OldestFirst: true}); len(got) != 0 {
		t.Errorf("after the rollback: %+v", got)
	}
}

// TestImportHasOneEntry imports tokens. They share one entry, and they contain its id.
func TestImportHasOneEntry(t *testing.T) {
	f := storetest.NewFixture(t)
	before := last(t, f)
	if _, err := tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(250, nil))); err != nil {
		t.Fatal(err)
	}
	got := entries(t, f.Registry, auditlog.Filter{After: before, OldestFirst: true})
	if len(got) != 1 || got[0].Action != "import" || got[0].ObjectKind != "token" || got[0].Objects != 250 || text(got[0].WorkspaceID) != f.Acme.ID ||
		text(got[0].API) != "velocity" || string(*got[0].After) != `{"kind": "workspace_key"}` {
		t.Fatalf("%+v", got)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens WHERE import_id = $1`, text(got[0].ObjectID)); n != 250 {
		t.Errorf("%d tokens have the import's id", n)
	}
}

// TestActor tests that a program can name the actor of a change.
func TestActor(t *testing.T) {
	f := storetest.NewFixture(t)
	before := last(t, f)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.Exec(`SET LOCAL keywicket.actor = '{"kind": "user", "id": "ada", "source": "203.0.113.9", "request_id": "r1"}'`))
	storetest.Must(tx.Exec(`UPDATE keywicket.users SET email = 'a' || email`))
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	got := entries(t, f.Registry, auditlog.Filter{After: before, OldestFirst: true})
	if len(got) == 0 {
		t.Fatal("no entries")
	}
	for _, e := range got {
		if text(e.ActorKind) != "user" || text(e.ActorID) != "ada" || text(e.Source) != "203.0.113.9" || text(e.RequestID) != "r1" || e.Login == "" {
			t.Errorf("%+v", e)
		}
	}
	if again := entries(t, f.Registry, auditlog.Filter{Actor: "ada"}); len(again) != len(got) {
		t.Errorf("%d entries of the actor, not %d", len(again), len(got))
	}
}

// TestFilters tests each filter, the order and the pages.
func TestFilters(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.WorkspaceToken(t)
	storetest.Must(f.RevokeToken(t.Context(), token.ID))
	login := storetest.Value[string](t, f.DB, `SELECT session_user::text`)
	all := entries(t, f.Registry, auditlog.Filter{})
	newest := all[0]
	for name, c := range map[string]struct {
		filter auditlog.Filter
		valid  func(auditlog.Entry) bool
	}{
		"workspace": {auditlog.Filter{Workspace: f.Acme.Slug}, func(e auditlog.Entry) bool { return text(e.WorkspaceID) == f.Acme.ID }},
		"user":      {auditlog.Filter{User: f.Ada.Email}, func(e auditlog.Entry) bool { return text(e.UserID) == f.Ada.ID }},
		"object":    {auditlog.Filter{Object: token.ID}, func(e auditlog.Entry) bool { return text(e.ObjectID) == token.ID }},
		"action":    {auditlog.Filter{Action: "revoke"}, func(e auditlog.Entry) bool { return e.Action == "revoke" }},
		"login":     {auditlog.Filter{Actor: login}, func(e auditlog.Entry) bool { return e.Login == login }},
		"since":     {auditlog.Filter{Since: &newest.At}, func(e auditlog.Entry) bool { return !e.At.Before(newest.At) }},
		"until":     {auditlog.Filter{Until: &newest.At}, func(e auditlog.Entry) bool { return e.At.Before(newest.At) }},
		"after":     {auditlog.Filter{After: newest.ID}, func(e auditlog.Entry) bool { return e.ID < newest.ID }},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(e auditlog.Entry) bool { return !c.valid(e) })
		got := entries(t, f.Registry, c.filter)
		if !slices.EqualFunc(got, want, func(a, b auditlog.Entry) bool { return a.ID == b.ID }) || len(want) == 0 || len(want) == len(all) && name != "login" {
			t.Errorf("%s: %d of %d entries, want %d", name, len(got), len(all), len(want))
		}
		c.filter.OldestFirst, c.filter.After, c.filter.Limit = true, 0, 1
		if oldest := entries(t, f.Registry, c.filter); name != "after" && (len(oldest) != 1 || oldest[0].ID != want[len(want)-1].ID) {
			t.Errorf("%s, the oldest: %+v", name, oldest)
		}
	}
	for name, filter := range map[string]auditlog.Filter{"workspace": {Workspace: "nowhere"}, "user": {User: "x@example.com"}} {
		for _, err := range auditlog.Entries(t.Context(), f.Registry, filter) {
			if err == nil || !strings.Contains(err.Error(), "no "+name) {
				t.Errorf("an unknown %s: %v", name, err)
			}
		}
	}
	for name, filter := range map[string]auditlog.Filter{"workspace": {Workspace: "64f1a2b3c4d5e6f7a8b9ffff"}, "user": {User: "gone"}} {
		if got := entries(t, f.Registry, filter); len(got) != 0 {
			t.Errorf("a deleted %s: %+v", name, got)
		}
	}
}

// TestExpire deletes old entries with the role keywicket_retention. This role can delete nothing else.
func TestExpire(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `UPDATE keywicket.audit_log SET at = now() - interval '400 days' WHERE object_kind = 'user'`)
	users := entries(t, f.Registry, auditlog.Filter{Until: new(time.Now().Add(-time.Hour))})
	all := entries(t, f.Registry, auditlog.Filter{})
	retention := storetest.Must(registry.Open(t.Context(), storetest.WithOption(f.URL, "role", "keywicket_retention")))
	defer func() { _ = retention.Close() }()
	for _, tooShort := range []time.Duration{-time.Hour, 0, 23 * time.Hour} {
		if n, err := auditlog.Expire(t.Context(), retention, tooShort); err == nil || n != 0 {
			t.Errorf("%v: %d, %v", tooShort, n, err)
		}
	}
	var n int64
	if err := f.DB.Get(&n, `SELECT keywicket.expire_audit_log('23 hours')`); err == nil || !strings.Contains(err.Error(), "at least one day") {
		t.Errorf("23 hours: %d, %v", n, err)
	}
	if n, err := auditlog.Expire(t.Context(), retention, 300*24*time.Hour); err != nil || n != int64(len(users)) || n == 0 {
		t.Errorf("expired %d of %d: %v", n, len(users), err)
	}
	left := entries(t, f.Registry, auditlog.Filter{})
	if len(left) != len(all)-len(users)+1 || left[0].Action != "expire" || left[0].Objects != int64(len(users)) {
		t.Errorf("%d entries are left: %+v", len(left), left[0])
	}
	if n, err := auditlog.Expire(t.Context(), retention, 300*24*time.Hour); err != nil || n != 0 {
		t.Errorf("the second time: %d, %v", n, err)
	}
	if again := entries(t, f.Registry, auditlog.Filter{}); len(again) != len(left) {
		t.Error("an expiry of nothing has an entry")
	}
}

// TestNoRoleChangesTheLog tests that no role of keywicket can write, change or delete entries.
func TestNoRoleChangesTheLog(t *testing.T) {
	f := storetest.NewFixture(t)
	roles := []string{}
	if err := f.DB.Select(&roles, `SELECT rolname FROM pg_roles WHERE rolname LIKE 'keywicket\_%' ORDER BY 1`); err != nil || len(roles) < 3 {
		t.Fatalf("%q, %v", roles, err)
	}
	for _, role := range roles {
		db := storetest.OpenDB(t, storetest.WithOption(f.URL, "role", role))
		for _, statement := range []string{
			`INSERT INTO keywicket.audit_log (action, object_kind) VALUES ('create', 'token')`,
			`UPDATE keywicket.audit_log SET login = 'x'`,
			`DELETE FROM keywicket.audit_log`,
			`TRUNCATE keywicket.audit_log`,
			`CREATE TRIGGER x AFTER INSERT ON keywicket.tokens FOR EACH STATEMENT EXECUTE FUNCTION keywicket.audit('token', 'id')`,
			`ALTER TABLE keywicket.tokens DISABLE TRIGGER audit_insert`,
		} {
			if _, err := db.ExecContext(t.Context(), statement); pq.As(err, pqerror.InsufficientPrivilege) == nil {
				t.Errorf("%s: %s: %v", role, statement, err)
			}
		}
		_, err := db.ExecContext(t.Context(), `SELECT keywicket.expire_audit_log('400 days')`)
		if refused := pq.As(err, pqerror.InsufficientPrivilege) != nil; refused != (role != "keywicket_retention") {
			t.Errorf("%s: expire_audit_log: %v", role, err)
		}
	}
}

// A page reads a limited number of entries. The next page continues where it ended.
func TestPageReadsALimitedNumberOfEntries(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `INSERT INTO keywicket.audit_log (action, object_kind, workspace_id, user_id)
		SELECT CASE n WHEN 7 THEN 'revoke' ELSE 'create' END, 'token', w, u
		FROM generate_series(1, 5100) n, (VALUES ($1, NULL), (NULL, $2)) AS owner (w, u)`, f.Acme.ID, f.Ada.ID)
	for name, filter := range map[string]auditlog.Filter{
		"workspace": {Workspace: f.Acme.ID, Action: "revoke", Limit: 2},
		"account":   {Account: f.Ada.ID, Action: "revoke", Limit: 2},
	} {
		empty, next, err := auditlog.Page(t.Context(), f.Registry, filter)
		if err != nil || len(empty) != 0 || next == 0 {
			t.Errorf("%s: the first page has %d entries, and the next is after %d: %v", name, len(empty), next, err)
		}
		filter.After = next
		found, next, err := auditlog.Page(t.Context(), f.Registry, filter)
		if err != nil || len(found) != 1 || next != 0 {
			t.Errorf("%s: the second page has %d entries, and the next is after %d: %v", name, len(found), next, err)
		}
		filter.Action, filter.After = "", 0
		full, next, err := auditlog.Page(t.Context(), f.Registry, filter)
		if err != nil || len(full) != 2 || next != full[1].ID || full[0].ID < full[1].ID {
			t.Errorf("%s: a full page has %d entries, and the next is after %d: %v", name, len(full), next, err)
		}
	}
}
