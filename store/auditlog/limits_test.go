package auditlog_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// TestExpireKeepsTheLastDay tests intervals that Postgres compares as a day or more, but whose months make them shorter, or even
// negative: it compares a month as 30 days.
func TestExpireKeepsTheLastDay(t *testing.T) {
	f := storetest.NewFixture(t)
	all := len(entries(t, f.Registry, auditlog.Filter{}))
	for _, interval := range []string{"-12 months 361 days", "-1200 months 36001 days", "-2 days", "1 day -1 microsecond", "0"} {
		var n int64
		if err := f.DB.Get(&n, `SELECT keywicket.expire_audit_log($1)`, interval); err == nil || !strings.Contains(err.Error(), "at least one day") {
			t.Errorf("%s: %d, %v", interval, n, err)
		}
	}
	if left := len(entries(t, f.Registry, auditlog.Filter{})); left != all {
		t.Errorf("%d of %d entries are left", left, all)
	}
}

// TestMalformedActor tests that a program that names an actor in the wrong form cannot make a change, and gets the remedy.
func TestMalformedActor(t *testing.T) {
	f := storetest.NewFixture(t)
	before := last(t, f)
	for _, actor := range []string{
		`ada`, ` `, `{"id": "ada"`, `"ada"`, `7`, `null`, `["user", "ada"]`, `{"id": "a\u0000"}`, `{"id": "` + strings.Repeat("é", 256) + `"}`,
	} {
		tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
		storetest.Must(tx.Exec(`SELECT set_config('keywicket.actor', $1, true)`, actor))
		_, err := tx.Exec(`UPDATE keywicket.users SET email = 'a' || email`)
		if err == nil || !strings.Contains(err.Error(), "keywicket.actor is not valid: set it to a JSON object") || strings.Contains(err.Error(), "ada") {
			t.Errorf("%q: %v", actor, err)
		}
		_ = tx.Rollback()
	}
	if got := entries(t, f.Registry, auditlog.Filter{After: before, OldestFirst: true}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestActorDoesNotHideTheLogin tests that a login finds its changes in the log, also if it named an actor.
func TestActorDoesNotHideTheLogin(t *testing.T) {
	f := storetest.NewFixture(t)
	login := storetest.Value[string](t, f.DB, `SELECT session_user::text`)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.Exec(`SET LOCAL keywicket.actor = '{"kind": "user", "id": "ada"}'`))
	storetest.Must(tx.Exec(`UPDATE keywicket.users SET email = 'a' || email`))
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	all, ofLogin := entries(t, f.Registry, auditlog.Filter{}), entries(t, f.Registry, auditlog.Filter{Actor: login})
	if len(ofLogin) != len(all) {
		t.Errorf("%d of %d entries of the login", len(ofLogin), len(all))
	}
}

// TestLogicalReplication copies a database and its log with logical replication. The copy of a table, and changes that are applied
// later, write no entries of their own, so the logs stay equal.
func TestLogicalReplication(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"wal_level": "logical"})
	origin := storetest.FixtureAt(t, s.URL("postgres"))
	origin.Exec(t, `CREATE DATABASE copy`)
	db := storetest.OpenDB(t, s.URL("copy"))
	storetest.Must(schema.Migrate(t.Context(), db))
	const tables = `keywicket.tokens, keywicket.workspaces, keywicket.users, keywicket.members, keywicket.revoked_sessions, keywicket.oauth_apps,
		keywicket.audit_log`
	origin.Exec(t, `CREATE PUBLICATION everything FOR TABLE `+tables)
	origin.Exec(t, `SELECT pg_create_logical_replication_slot('everything', 'pgoutput')`)
	db.MustExec(`CREATE SUBSCRIPTION everything CONNECTION '` + s.URL("postgres") + `' PUBLICATION everything
		WITH (create_slot = false, slot_name = 'everything')`)
	t.Cleanup(func() {
		for _, statement := range []string{`ALTER SUBSCRIPTION everything DISABLE`, `ALTER SUBSCRIPTION everything SET (slot_name = NONE)`, `DROP SUBSCRIPTION everything`} {
			db.MustExec(statement)
		}
	})
	const content = `SELECT COALESCE(string_agg(concat_ws(' ', id, login, action, object_kind, object_id), '; ' ORDER BY id), '') FROM keywicket.audit_log`
	expectEqual := func(what string) {
		t.Helper()
		want := storetest.Value[string](t, origin.DB, content)
		storetest.Eventually(t, what, func() bool {
			return storetest.Value[string](t, db, content) == want &&
				storetest.Value[bool](t, db, `SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
		})
	}
	expectEqual("the log is copied")
	token, _ := origin.WorkspaceToken(t, "issues:read")
	storetest.Must(origin.RevokeToken(t.Context(), token.ID))
	expectEqual("later changes are copied")
	origin.Exec(t, `TRUNCATE keywicket.revoked_sessions`)
	expectEqual("a truncation is copied")
	// A superuser's session with the same setting is no replication.
	storetest.Must(db.Exec(`SELECT setval(pg_get_serial_sequence('keywicket.audit_log', 'id'), 1000)`))
	storetest.Must(db.Exec(`BEGIN; SET LOCAL session_replication_role = replica; UPDATE keywicket.users SET email = 'x' || email; COMMIT`))
	if n := storetest.Value[int](t, db, `SELECT count(*) FROM keywicket.audit_log WHERE id > 1000`); n == 0 {
		t.Error("a change with session_replication_role = replica has no entry")
	}
}
