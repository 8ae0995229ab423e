package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/store/tokenimport"
)

const insertToken = `
	INSERT INTO keywicket.tokens (id, api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
	VALUES ($1, 'velocity', 'workspace_key', 'live', 'vel_', sha256(convert_to($1, 'UTF8')), 't', '{}', $2)`

// acting runs the function in a transaction for the actor.
func acting(t *testing.T, f *storetest.Fixture, actor string, change func(*sqlx.Tx) error) error {
	t.Helper()
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.Exec(`SELECT set_config('keywicket.actor', $1, true)`, actor))
	if err := change(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func userActor(id string) string { return fmt.Sprintf(`{"kind": "user", "id": %q}`, id) }

// createAs creates a token in a workspace for the actor, and returns it.
func createAs(t *testing.T, f *storetest.Fixture, actor, id, workspace string) registry.Token {
	t.Helper()
	if err := acting(t, f, actor, func(tx *sqlx.Tx) error { _, err := tx.Exec(insertToken, id, workspace); return err }); err != nil {
		t.Fatal(err)
	}
	return storetest.Must(f.Token(t.Context(), id))
}

// If the login acts for a user, this user is the creator of a token. Otherwise, the token has no creator.
func TestCreatorOfAToken(t *testing.T) {
	f := storetest.NewFixture(t)
	for actor, want := range map[string]string{
		``:                                 "-",
		userActor(f.Ada.ID):                f.Ada.ID,
		`{"kind": "user"}`:                 "-",
		`{"kind": "user", "id": ""}`:       "-",
		`{"kind": "app", "id": "planner"}`: "-",
		`{"kind": "token", "id": "t"}`:     "-",
		`{"id": "ada"}`:                    "-",
		`{}`:                               "-",
	} {
		created := createAs(t, f, actor, "of "+actor, f.Acme.ID)
		got := "-"
		if created.CreatedBy != nil {
			got = *created.CreatedBy
		}
		if got != want || created.CreatorLeft {
			t.Errorf("%s: created by %s, %v", actor, got, created.CreatorLeft)
		}
	}
	// An invalid actor is refused by the audit log's trigger, as for each other change.
	for _, actor := range []string{`ada`, `["user", "ada"]`, `{"kind": "user", "id": "a\u0000"}`, `{"kind": "user", "id": "` + strings.Repeat("a", 256) + `"}`} {
		err := acting(t, f, actor, func(tx *sqlx.Tx) error { _, err := tx.Exec(insertToken, "invalid", f.Acme.ID); return err })
		if err == nil || !strings.Contains(err.Error(), "keywicket.actor is not valid") {
			t.Errorf("%q: %v", actor, err)
		}
	}
	storetest.Must(tokenimport.Run(t.Context(), f.Registry, storetest.VelImport(storetest.ProductLines(3, nil))))
	if n := storetest.Value[int](t, f.DB, `SELECT count(created_by) FROM keywicket.tokens WHERE import_id IS NOT NULL`); n != 0 {
		t.Errorf("%d imported tokens have a creator", n)
	}
}

// The creator of a rotated token is who rotates it, because only they get the new secret.
func TestCreatorOfARotatedToken(t *testing.T) {
	f := storetest.NewFixture(t)
	by := func(user string, change func(*registry.Registry) (registry.Token, authz.Secret, error)) (created registry.Token) {
		t.Helper()
		err := f.Acting(t.Context(), database.Actor{Kind: database.ActorUser, ID: user}, func(r *registry.Registry, _ *sqlx.Tx) (err error) {
			created, _, err = change(r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return created
	}
	created := by(f.Ada.ID, func(r *registry.Registry) (registry.Token, authz.Secret, error) {
		return r.CreateToken(t.Context(), registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme"})
	})
	rotated := by(f.Bob.ID, func(r *registry.Registry) (registry.Token, authz.Secret, error) {
		return r.RotateToken(t.Context(), created.ID, storetest.Vel, time.Hour)
	})
	again, _, err := f.RotateToken(t.Context(), rotated.ID, storetest.Vel, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if created.CreatedBy == nil || *created.CreatedBy != f.Ada.ID || rotated.CreatedBy == nil || *rotated.CreatedBy != f.Bob.ID || again.CreatedBy != nil {
		t.Errorf("created by %v, %v, %v", created.CreatedBy, rotated.CreatedBy, again.CreatedBy)
	}
	if old := storetest.Must(f.Token(t.Context(), created.ID)); *old.CreatedBy != f.Ada.ID {
		t.Errorf("the old token was created by %s", *old.CreatedBy)
	}
}

// A token whose creator is not a member is marked, in each list, until the creator is a member again. Users' keys are never marked.
func TestTokensWhoseCreatorLeft(t *testing.T) {
	f := storetest.NewFixture(t)
	createAs(t, f, userActor(f.Ada.ID), "in acme", f.Acme.ID)
	createAs(t, f, userActor(f.Ada.ID), "in globex", f.Globex.ID)
	createAs(t, f, "", "of nobody", f.Acme.ID)
	personal, _ := f.UserToken(t)
	f.Exec(t, `UPDATE keywicket.tokens SET created_by = 'somebody else' WHERE id = $1`, personal.ID)
	expect := func(when string, want ...string) {
		t.Helper()
		left := []string{}
		for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{})) {
			if token.CreatorLeft {
				left = append(left, token.ID)
			}
		}
		listed := []string{}
		for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{CreatorLeft: true})) {
			if !token.CreatorLeft || token.Status != registry.Active {
				t.Errorf("%s: listed %+v", when, token)
			}
			listed = append(listed, token.ID)
		}
		if fmt.Sprint(left) != fmt.Sprint(want) || fmt.Sprint(listed) != fmt.Sprint(want) {
			t.Errorf("%s: %q are marked, %q are listed, want %q", when, left, listed, want)
		}
	}
	expect("before")
	if err := f.RemoveMember(t.Context(), "acme", f.Ada.ID); err != nil {
		t.Fatal(err)
	}
	expect("after the removal", "in acme")
	storetest.Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "guest"))
	expect("a member again")
	f.Exec(t, `DELETE FROM keywicket.users WHERE id = $1`, f.Ada.ID)
	expect("after the deletion", "in globex", "in acme")
}

func TestSetLeaverRule(t *testing.T) {
	f := storetest.NewFixture(t)
	if f.Acme.LeaverRule != registry.LeaversMark {
		t.Errorf("a new workspace has the rule %q", f.Acme.LeaverRule)
	}
	for _, rule := range []registry.LeaverRule{registry.LeaversEnd, registry.LeaversKeep, registry.LeaversMark} {
		if w, err := f.SetLeaverRule(t.Context(), "acme", rule); err != nil || w.LeaverRule != rule || w.ID != f.Acme.ID {
			t.Errorf("%+v, %v", w, err)
		}
	}
	for _, rule := range []registry.LeaverRule{"", "END", "revoke"} {
		if _, err := f.SetLeaverRule(t.Context(), "acme", rule); !errors.Is(err, database.ErrInvalid) || !strings.Contains(err.Error(), "keep, mark or end") {
			t.Errorf("%q: %v", rule, err)
		}
	}
	if _, err := f.SetLeaverRule(t.Context(), "nowhere", registry.LeaversEnd); !errors.Is(err, database.ErrNotFound) {
		t.Error(err)
	}
	if _, err := f.DB.Exec(`UPDATE keywicket.workspaces SET leaver_rule = 'other'`); err == nil {
		t.Error("SQL by hand can set a rule that does not exist")
	}
	if w := storetest.Must(f.Workspace(t.Context(), "globex")); w.LeaverRule != registry.LeaversMark {
		t.Errorf("the other workspace has the rule %s", w.LeaverRule)
	}
}

// With the rule end, each way to leave revokes the leaver's active tokens in this workspace, and nothing else.
func TestLeaving(t *testing.T) {
	for name, c := range map[string]struct {
		rule      registry.LeaverRule
		statement string
		ends      bool
	}{
		"removed":                     {registry.LeaversEnd, `DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2`, true},
		"removed, with rule mark":     {registry.LeaversMark, `DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2`, false},
		"removed, with rule keep":     {registry.LeaversKeep, `DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2`, false},
		"the user is deleted":         {registry.LeaversEnd, `DELETE FROM keywicket.users WHERE $1 <> '' AND id = $2`, true},
		"another user gets the row":   {registry.LeaversEnd, `UPDATE keywicket.members SET user_id = 'auth0|bob' WHERE workspace_id = $1 AND user_id = $2`, true},
		"all members are truncated":   {registry.LeaversEnd, `TRUNCATE keywicket.members`, true},
		"truncated, with rule mark":   {registry.LeaversMark, `TRUNCATE keywicket.members`, false},
		"another role":                {registry.LeaversEnd, `UPDATE keywicket.members SET user_id = user_id, role = 'guest' WHERE workspace_id = $1 AND user_id = $2`, false},
		"another user leaves":         {registry.LeaversEnd, `DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id <> $2`, false},
		"the user leaves elsewhere":   {registry.LeaversEnd, `DELETE FROM keywicket.members WHERE workspace_id <> $1 AND user_id = $2`, false},
		"replaced in one transaction": {registry.LeaversEnd, `WITH gone AS (DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2 RETURNING *) SELECT set_config('test.gone', role, true) FROM gone`, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := storetest.NewFixture(t)
			storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "guest"))
			storetest.Must(f.SetLeaverRule(t.Context(), "acme", c.rule))
			if c.statement[:6] == "UPDATE" && c.ends {
				storetest.Must(f.DB.Exec(`DELETE FROM keywicket.members WHERE user_id = $1`, f.Bob.ID))
			}
			ada := userActor(f.Ada.ID)
			createAs(t, f, ada, "active", f.Acme.ID)
			createAs(t, f, ada, "active too", f.Acme.ID)
			createAs(t, f, ada, "expired", f.Acme.ID)
			f.Exec(t, `UPDATE keywicket.tokens SET expires_at = now() - interval '1 hour' WHERE id = 'expired'`)
			createAs(t, f, ada, "revoked", f.Acme.ID)
			revoked := storetest.Must(f.RevokeToken(t.Context(), "revoked"))
			createAs(t, f, ada, "elsewhere", f.Globex.ID)
			createAs(t, f, `{"kind": "user", "id": "support"}`, "of another user", f.Globex.ID)
			createAs(t, f, "", "of nobody", f.Acme.ID)
			audited := storetest.Value[int64](t, f.DB, `SELECT max(id) FROM keywicket.audit_log`)

			err := acting(t, f, `{"kind": "user", "id": "admin", "request_id": "r1"}`, func(tx *sqlx.Tx) error {
				args := []any{f.Acme.ID, f.Ada.ID}
				if strings.HasPrefix(c.statement, "TRUNCATE") {
					args = nil
				}
				_, err := tx.Exec(c.statement, args...)
				if strings.HasPrefix(name, "replaced") && err == nil {
					_, err = tx.Exec(`INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES ($1, $2, 'owner')`, f.Acme.ID, f.Ada.ID)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			ended := 0
			for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{})) {
				want := registry.Active
				switch token.ID {
				case "active", "active too":
					if c.ends {
						want = registry.Revoked
						ended++
					}
				case "expired":
					want = registry.Expired
				case "revoked":
					want = registry.Revoked
					if !token.RevokedAt.Equal(*revoked.RevokedAt) {
						t.Errorf("an earlier revocation has another time")
					}
				}
				if token.Status != want {
					t.Errorf("the token %q is %s, want %s", token.ID, token.Status, want)
				}
			}
			entries := storetest.Value[string](t, f.DB, `SELECT COALESCE(string_agg(concat_ws(' ', action, object_id, actor_id, request_id), '; ' ORDER BY object_id), '')
				FROM keywicket.audit_log WHERE id > $1 AND object_kind = 'token'`, audited)
			if want := "revoke active admin r1; revoke active too admin r1"; (entries == want) != c.ends || !c.ends && entries != "" {
				t.Errorf("the audit log has %q", entries)
			}
		})
	}
}

// A sidecar with a cache notices that a leaver's token was revoked.
func TestLeavingReachesSidecars(t *testing.T) {
	f := storetest.NewFixture(t)
	storetest.Must(f.SetLeaverRule(t.Context(), "acme", registry.LeaversEnd))
	token, key := f.WorkspaceToken(t)
	f.Exec(t, `UPDATE keywicket.tokens SET created_by = $1 WHERE id = $2`, f.Ada.ID, token.ID)
	d := f.CachedDirectory(t)
	storetest.Eventually(t, "the token is cached", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	})
	if err := f.RemoveMember(t.Context(), "acme", f.Ada.ID); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, "the token is revoked", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Denial == authz.ReasonRevoked
	})
}

// A removal and the creation of a token at the same time: no order leaves an active token of somebody who has left.
func TestLeavingWhileCreating(t *testing.T) {
	f := storetest.NewFixture(t)
	storetest.Must(f.SetLeaverRule(t.Context(), "acme", registry.LeaversEnd))
	remove := `DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2`
	create := func(tx *sqlx.Tx) error { _, err := tx.Exec(insertToken, "racing", f.Acme.ID); return err }

	// The creation is first. The removal waits for it, and then revokes the token.
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.Exec(`SELECT set_config('keywicket.actor', $1, true)`, userActor(f.Ada.ID)))
	if err := create(tx); err != nil {
		t.Fatal(err)
	}
	removed := make(chan error)
	go func() {
		_, err := f.DB.ExecContext(context.WithoutCancel(t.Context()), remove, f.Acme.ID, f.Ada.ID)
		removed <- err
	}()
	f.AwaitLocks(t, 1)
	if err := errors.Join(tx.Commit(), <-removed); err != nil {
		t.Fatal(err)
	}
	if token := storetest.Must(f.Token(t.Context(), "racing")); token.Status != registry.Revoked {
		t.Errorf("the token of somebody who left is %s", token.Status)
	}

	// The removal is first. The creation waits for it, and is then refused.
	storetest.Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "admin"))
	f.Exec(t, `DELETE FROM keywicket.tokens`)
	tx = storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	storetest.Must(tx.Exec(remove, f.Acme.ID, f.Ada.ID))
	created := make(chan error)
	go func() { created <- acting(t, f, userActor(f.Ada.ID), create) }()
	f.AwaitLocks(t, 1)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err == nil || !strings.Contains(err.Error(), "creator is not a member") {
		t.Errorf("a token of somebody who left was created: %v", err)
	}
	// The registry refuses it with the remedy. Without the rule, the token is only marked.
	if _, err := f.DB.Exec(`ALTER DATABASE ` + storetest.Value[string](t, f.DB, `SELECT current_database()`) + ` SET keywicket.actor = '` + userActor(f.Ada.ID) + `'`); err != nil {
		t.Fatal(err)
	}
	r := storetest.Must(registry.Open(t.Context(), f.URL))
	defer func() { _ = r.Close() }()
	n := registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme"}
	if _, _, err := r.CreateToken(t.Context(), n); !errors.Is(err, database.ErrInvalid) || !strings.Contains(err.Error(), "add the member first") {
		t.Errorf("%v", err)
	}
	storetest.Must(r.SetLeaverRule(t.Context(), "acme", registry.LeaversMark))
	token, _, err := r.CreateToken(t.Context(), n)
	if err != nil || !token.CreatorLeft {
		t.Fatalf("%+v, %v", token, err)
	}
	storetest.Must(r.SetLeaverRule(t.Context(), "acme", registry.LeaversEnd))
	if _, _, err := r.RotateToken(t.Context(), token.ID, storetest.Vel, 0); !errors.Is(err, database.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if token := storetest.Must(r.Token(t.Context(), token.ID)); token.Status != registry.Active || token.ExpiresAt != nil {
		t.Errorf("the refused rotation changed %+v", token)
	}
}

// A copy gets the members by logical replication. If it has tokens of its own, it ends the tokens of those who leave. If it gets the
// tokens too, it has the revocation of the origin.
func TestLeavingInACopy(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"wal_level": "logical"})
	origin := storetest.FixtureAt(t, s.URL("postgres"))
	storetest.Must(origin.SetLeaverRule(t.Context(), "acme", registry.LeaversEnd))
	createAs(t, origin, userActor(origin.Ada.ID), "of the origin", origin.Acme.ID)
	const directory = `keywicket.workspaces, keywicket.users, keywicket.members`
	for name, tables := range map[string]string{"members": directory, "everything": directory + `, keywicket.tokens`} {
		origin.Exec(t, `CREATE DATABASE copy_`+name)
		db := storetest.OpenDB(t, s.URL("copy_"+name))
		storetest.Must(schema.Migrate(t.Context(), db))
		origin.Exec(t, `CREATE PUBLICATION `+name+` FOR TABLE `+tables)
		origin.Exec(t, `SELECT pg_create_logical_replication_slot('`+name+`', 'pgoutput')`)
		db.MustExec(`CREATE SUBSCRIPTION ` + name + ` CONNECTION '` + s.URL("postgres") + `' PUBLICATION ` + name + `
			WITH (create_slot = false, slot_name = '` + name + `')`)
		t.Cleanup(func() {
			for _, statement := range []string{`ALTER SUBSCRIPTION ` + name + ` DISABLE`, `ALTER SUBSCRIPTION ` + name + ` SET (slot_name = NONE)`, `DROP SUBSCRIPTION ` + name} {
				db.MustExec(statement)
			}
		})
		storetest.Eventually(t, "the tables are copied", func() bool {
			return storetest.Value[bool](t, db, `SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
		})
		if name == "members" {
			db.MustExec(insertToken, "of the origin", origin.Acme.ID)
			db.MustExec(`UPDATE keywicket.tokens SET created_by = $1`, origin.Ada.ID)
		}
		defer func() {
			storetest.Eventually(t, name+": the token of somebody who left is revoked", func() bool {
				return storetest.Value[bool](t, db, `SELECT revoked_at IS NOT NULL FROM keywicket.tokens`)
			})
			if n := storetest.Value[int](t, db, `SELECT count(*) FROM keywicket.changes WHERE keys ~ keywicket.change_key('token',
					(SELECT encode(digest, 'hex') FROM keywicket.tokens))`); n == 0 {
				t.Errorf("%s: the change log has no entry about the token", name)
			}
		}()
	}
	if err := origin.RemoveMember(t.Context(), "acme", origin.Ada.ID); err != nil {
		t.Fatal(err)
	}
}

func TestNotices(t *testing.T) {
	f := storetest.NewFixture(t)
	day := 24 * time.Hour
	for i, c := range []struct {
		expiresIn, unusedFor time.Duration
		change               string // of the token
	}{
		{13 * day, 0, ""},
		{15 * day, 0, ""},
		{-day, 0, ""}, // expired
		{0, 91 * day, ""},
		{0, 89 * day, ""},
		{3 * day, 100 * day, "revoked_at = now()"},
		{0, 0, "created_by = 'gone'"},
		{0, 0, "created_by = 'gone', workspace_id = '" + f.Globex.ID + "'"},
		{0, 0, "created_by = '" + f.Ada.ID + "'"},
		{0, 0, "created_by = 'gone', workspace_id = NULL, user_id = '" + f.Ada.ID + "', kind = 'personal_key'"},
		{0, 0, "created_by = 'gone', api = 'velaflows', expires_at = 'infinity'"},
	} {
		id := fmt.Sprint(i)
		createAs(t, f, "", id, f.Acme.ID)
		if c.expiresIn != 0 {
			f.Exec(t, `UPDATE keywicket.tokens SET expires_at = now() + $1 * interval '1 second' WHERE id = $2`, c.expiresIn.Seconds(), id)
		}
		if c.unusedFor != 0 {
			f.Exec(t, `UPDATE keywicket.tokens SET created_at = now() - interval '200 days' WHERE id = $1`, id)
			f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, now() - $2 * interval '1 second')`, id, c.unusedFor.Seconds())
		}
		if c.change != "" {
			f.Exec(t, `UPDATE keywicket.tokens SET `+c.change+` WHERE id = $1`, id)
		}
	}
	storetest.Must(f.SetLeaverRule(t.Context(), "globex", registry.LeaversKeep))
	want := "[{velaflows creator_left 1} {velaflows expiring 0} {velaflows unused 0} {velocity creator_left 1} {velocity expiring 1} {velocity unused 1}]"
	if got := fmt.Sprint(storetest.Must(f.Notices(t.Context()))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The list of the command line counts the same tokens.
	attention := storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{ExpiringIn: registry.ExpiringSoon, UnusedFor: registry.UnusedLong}))
	if len(attention) != 2 {
		t.Errorf("%d tokens need attention", len(attention))
	}
}
