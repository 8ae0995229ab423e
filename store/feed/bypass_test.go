package feed_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// In each case, statements change rows without a row in the log, and then restore the schema. The sidecar must detect the change of
// the schema. Otherwise, the old answer would stay cached for cache.max_age, which is longer than the test waits.
func TestChangesThatBypassTriggersAreNoticed(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string][]string{
		"a trigger is disabled, then enabled": {
			`ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`, storetest.RevokeAll,
			`ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`,
		},
		"all triggers are disabled, then enabled": {
			`ALTER TABLE keywicket.tokens DISABLE TRIGGER ALL`, storetest.RevokeAll, `ALTER TABLE keywicket.tokens ENABLE TRIGGER ALL`,
			`ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_insert, ENABLE ALWAYS TRIGGER tell_update,
				ENABLE ALWAYS TRIGGER tell_delete, ENABLE ALWAYS TRIGGER tell_truncate, ENABLE REPLICA TRIGGER tell_row`,
		},
		"a trigger is dropped, then created": {
			`DROP TRIGGER tell_update ON keywicket.tokens`, storetest.RevokeAll,
			`CREATE TRIGGER tell_update AFTER UPDATE ON keywicket.tokens
				REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
				FOR EACH STATEMENT EXECUTE FUNCTION keywicket.tell_changes('token', 'encode(digest, ''hex'')')`,
			`ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`,
		},
		"the triggers' function is replaced, then restored": {
			`ALTER FUNCTION keywicket.tell_changes() RENAME TO kept`,
			`CREATE FUNCTION keywicket.tell_changes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
			`DROP FUNCTION keywicket.tell_changes()`,
			`ALTER FUNCTION keywicket.kept() RENAME TO tell_changes`,
			`CREATE TEMP TABLE source ON COMMIT DROP AS SELECT pg_get_functiondef('keywicket.tell_changes()'::regprocedure) AS text`,
			`CREATE OR REPLACE FUNCTION keywicket.tell_changes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
			storetest.RevokeAll,
			`DO $$ DECLARE original text; BEGIN SELECT text INTO original FROM source; EXECUTE original; END $$`,
		},
		"the table is replaced": {
			`CREATE TABLE keywicket.other (LIKE keywicket.tokens INCLUDING ALL)`,
			`INSERT INTO keywicket.other SELECT * FROM keywicket.tokens`,
			`UPDATE keywicket.other SET revoked_at = clock_timestamp()`,
			`ALTER TABLE keywicket.tokens RENAME TO before`,
			`ALTER TABLE keywicket.other RENAME TO tokens`,
			`CALL keywicket.tell_changes_of('tokens', $k$'token', 'encode(digest, ''hex'')'$k$)`,
			`CALL keywicket.tell_rows_of('tokens', $k$'token', 'encode(digest, ''hex'')'$k$)`,
			`GRANT SELECT ON keywicket.tokens TO keywicket_sidecar`,
		},
		"the schema is replaced": {
			`ALTER SCHEMA keywicket RENAME TO before`,
			`ALTER SCHEMA replacement RENAME TO keywicket`,
		},
		"a child table contains the row temporarily": {
			`CREATE TABLE public.child () INHERITS (keywicket.tokens)`,
			`WITH gone AS (DELETE FROM ONLY keywicket.tokens RETURNING *)
				INSERT INTO public.child SELECT * FROM gone`,
			`ALTER TABLE public.child NO INHERIT keywicket.tokens`,
			`DROP TABLE public.child`,
		},
		"two columns are renamed": {
			`ALTER TABLE keywicket.tokens RENAME COLUMN revoked_at TO revoked_before`,
			`ALTER TABLE keywicket.tokens RENAME COLUMN revoked_after TO revoked_at`,
		},
		"the change is made through a temporary parent table": {
			`CREATE TABLE public.parent (LIKE keywicket.tokens INCLUDING CONSTRAINTS)`, `ALTER TABLE keywicket.tokens INHERIT public.parent`,
			`UPDATE public.parent SET revoked_at = clock_timestamp()`,
			`ALTER TABLE keywicket.tokens NO INHERIT public.parent`, `DROP TABLE public.parent`,
		},
		"a row-level security policy hides the row": {`ALTER POLICY seen ON keywicket.tokens USING (false)`},
		"the log is emptied through a parent table": {
			storetest.RevokeAll, `CREATE TABLE public.parent (LIKE keywicket.changes INCLUDING CONSTRAINTS)`,
			`ALTER TABLE keywicket.changes INHERIT public.parent`, `DELETE FROM public.parent`,
			`ALTER TABLE keywicket.changes NO INHERIT public.parent`, `DROP TABLE public.parent`,
		},
		"the log is emptied while its trigger is disabled": {
			storetest.RevokeAll, `ALTER TABLE keywicket.changes DISABLE TRIGGER tell_delete`,
			`DELETE FROM keywicket.changes`, `ALTER TABLE keywicket.changes ENABLE ALWAYS TRIGGER tell_delete`,
		},
		"a superuser edits the catalogs": {
			`UPDATE pg_catalog.pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'keywicket.tokens'::regclass`, storetest.RevokeAll,
			`UPDATE pg_catalog.pg_trigger SET tgenabled = CASE tgname WHEN 'tell_row' THEN 'R' ELSE 'A' END
				WHERE tgrelid = 'keywicket.tokens'::regclass AND NOT tgisinternal`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := storetest.NewFixture(t)
			if name == "the change is made through a temporary parent table" && !mayInherit(t, f) {
				return
			}
			_, key := f.WorkspaceToken(t, "issues:read")
			switch name {
			case "the schema is replaced":
				createReplacementSchema(t, f)
			case "two columns are renamed":
				f.Exec(t, `ALTER TABLE keywicket.tokens ADD COLUMN revoked_after timestamptz`)
				f.Exec(t, `UPDATE keywicket.tokens SET revoked_after = clock_timestamp()`)
				f.Exec(t, `GRANT SELECT (revoked_after) ON keywicket.tokens TO keywicket_sidecar`)
			case "a row-level security policy hides the row":
				f.Exec(t, `CREATE POLICY seen ON keywicket.tokens USING (true)`)
				f.Exec(t, `ALTER TABLE keywicket.tokens ENABLE ROW LEVEL SECURITY`)
			}
			d := f.CachedDirectory(t, func(c *directory.Config) { c.NoHints = true })
			storetest.Eventually(t, "the token is cached", func() bool {
				found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
				return found.Cache == authz.CacheHit && found.Denial == ""
			})
			tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
			for _, statement := range statements {
				if _, err := tx.ExecContext(t.Context(), statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			storetest.Eventually(t, "the sidecar detects the change", func() bool {
				found, err := d.Lookup(t.Context(), storetest.Lookup(key))
				return err == nil && found.Denial != ""
			})
			storetest.Eventually(t, "the sidecar uses its cache again", func() bool {
				found, err := d.Lookup(t.Context(), storetest.Lookup(key))
				return err == nil && found.Cache == authz.CacheHit
			})
		})
	}
}

// The sidecar discards answers from another schema, even if the original schema is restored before the sidecar verifies the schema.
func TestSchemaReplacedAndRestored(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	createReplacementSchema(t, f)
	f.Exec(t, `ALTER SCHEMA keywicket RENAME TO good; ALTER SCHEMA replacement RENAME TO keywicket`)
	d := f.CachedDirectory(t, func(c *directory.Config) { c.NoHints = true })
	for range 4 {
		f.Exec(t, `INSERT INTO keywicket.changes (keys) VALUES ('*')`) // this row discards the cached denial
		time.Sleep(600 * time.Millisecond)
		f.Exec(t, `ALTER SCHEMA keywicket RENAME TO other; ALTER SCHEMA good RENAME TO keywicket`)
		_, err := d.Lookup(t.Context(), storetest.Lookup(key))
		f.Exec(t, `ALTER SCHEMA keywicket RENAME TO good; ALTER SCHEMA other RENAME TO keywicket`)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Denial != authz.ReasonRevoked {
			t.Fatalf("%+v", found)
		}
	}
}

// The sidecar detects that a copy has replaced the database, although a copy has the same oids, files and transaction ids.
func TestDatabaseReplacedByACopy(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t, func(c *directory.Config) { c.NoHints = true })
	name := storetest.Value[string](t, f.DB, `SELECT current_database()`)
	administer := func(statements ...string) {
		t.Helper()
		for _, s := range statements {
			if err := storetest.Administer(context.Background(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	disconnectAll := func() {
		t.Helper()
		administer(`ALTER DATABASE `+name+` ALLOW_CONNECTIONS false`,
			`SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '`+name+`'`)
	}
	disconnectAll()
	administer(`CREATE DATABASE `+name+`_copy TEMPLATE `+name, `ALTER DATABASE `+name+` ALLOW_CONNECTIONS true`)
	t.Cleanup(func() { administer(`DROP DATABASE ` + name + `_before WITH (FORCE)`) })
	copied := storetest.OpenDB(t, strings.Replace(f.URL, "/"+name, "/"+name+"_copy", 1))
	copied.MustExec(storetest.RevokeAll)
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, "the token is cached", func() bool {
		found, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil && found.Cache == authz.CacheHit
	})
	for range 20 { // after these transactions, the original database has passed the id of the transaction that revoked the token in the copy
		f.Exec(t, `SELECT pg_current_xact_id()`)
	}
	time.Sleep(500 * time.Millisecond)
	disconnectAll()
	administer(`ALTER DATABASE `+name+` RENAME TO `+name+`_before`, `ALTER DATABASE `+name+`_copy RENAME TO `+name)
	time.Sleep(1200 * time.Millisecond) // no look-up runs during this time, so the old answer is still cached
	storetest.Eventually(t, "the cache is in use", func() bool { return d.CacheStats().LeaseLeft > 0 })
	time.Sleep(time.Second)
	if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Denial != authz.ReasonRevoked {
		t.Errorf("%+v", found)
	}
}

// createReplacementSchema creates the schema "replacement": a copy of the schema "keywicket" in which every token is revoked.
func createReplacementSchema(t *testing.T, f *storetest.Fixture) {
	t.Helper()
	f.Exec(t, `ALTER SCHEMA keywicket RENAME TO original`)
	storetest.Must(schema.Migrate(t.Context(), f.DB))
	f.Exec(t, `INSERT INTO keywicket.workspaces SELECT * FROM original.workspaces`)
	f.Exec(t, `INSERT INTO keywicket.users SELECT * FROM original.users`)
	f.Exec(t, `INSERT INTO keywicket.tokens SELECT * FROM original.tokens`)
	f.Exec(t, storetest.RevokeAll)
	f.Exec(t, `ALTER SCHEMA keywicket RENAME TO replacement`)
	f.Exec(t, `ALTER SCHEMA original RENAME TO keywicket`)
}

// In each case, changes may be missing from the log. So the sidecar does not use its cache.
func TestCacheIsNotUsedWhileChangesMayBeMissed(t *testing.T) {
	for name, c := range map[string]struct{ statement, undo string }{
		"a child table": {`CREATE TABLE public.child () INHERITS (keywicket.members)`, `DROP TABLE public.child`},
		"a parent table": {
			`CREATE TABLE public.parent (); ALTER TABLE keywicket.users INHERIT public.parent`,
			`ALTER TABLE keywicket.users NO INHERIT public.parent`,
		},
		"row-level security on the log": {
			`ALTER TABLE keywicket.changes ENABLE ROW LEVEL SECURITY`, `ALTER TABLE keywicket.changes DISABLE ROW LEVEL SECURITY`,
		},
		"a parent of the log": {
			`CREATE TABLE public.parent (); ALTER TABLE keywicket.changes INHERIT public.parent`,
			`ALTER TABLE keywicket.changes NO INHERIT public.parent`,
		},
		"a rule on the log": {
			`CREATE RULE drop_it AS ON INSERT TO keywicket.changes DO INSTEAD NOTHING`, `DROP RULE drop_it ON keywicket.changes`,
		},
		"the trigger for replicated rows is disabled": {
			`ALTER TABLE keywicket.oauth_apps DISABLE TRIGGER tell_row`, `ALTER TABLE keywicket.oauth_apps ENABLE REPLICA TRIGGER tell_row`,
		},
		"a missing table": {`ALTER TABLE keywicket.oauth_apps RENAME TO apps`, `ALTER TABLE keywicket.apps RENAME TO oauth_apps`},
	} {
		t.Run(name, func(t *testing.T) {
			f := storetest.NewFixture(t)
			if name == "a parent table" && !mayInherit(t, f) {
				return
			}
			_, key := f.WorkspaceToken(t, "issues:read")
			d := f.CachedDirectory(t, func(c *directory.Config) { c.Cache.StalenessBound = 100 * time.Millisecond })
			hit := func() bool {
				return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
			}
			storetest.Eventually(t, "the token is cached", hit)
			execAll(t, f, c.statement)
			storetest.Eventually(t, "the cache is not in use", func() bool { return d.CacheStats().LeaseLeft == 0 && !hit() })
			execAll(t, f, c.undo)
			storetest.Eventually(t, "the cache is in use again", hit)
		})
	}
}

// If Postgres cannot store the row of the log, the change itself fails.
func TestChangeWithoutLogRowFails(t *testing.T) {
	for name, statement := range map[string]string{
		"a rule discards the row": `CREATE RULE drop_it AS ON INSERT TO keywicket.changes DO INSTEAD NOTHING`,
		"a trigger discards the row": `CREATE FUNCTION public.drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER drop_it BEFORE INSERT ON keywicket.changes FOR EACH ROW EXECUTE FUNCTION public.drop_it()`,
	} {
		f := storetest.NewFixture(t)
		f.WorkspaceToken(t)
		f.Exec(t, statement)
		if _, err := f.DB.Exec(storetest.RevokeAll); err == nil || !strings.Contains(err.Error(), "keywicket.changes drops rows") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mayInherit reports whether this version of Postgres lets a table with keywicket's triggers inherit from another table. Versions
// 14.18 and 15.13 do not allow it. Version 15.18 allows it.
func mayInherit(t *testing.T, f *storetest.Fixture) bool {
	t.Helper()
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `CREATE TABLE public.parent ()`))
	_, err := tx.ExecContext(t.Context(), `ALTER TABLE keywicket.users INHERIT public.parent`)
	if err != nil && pq.As(err, pqerror.FeatureNotSupported) == nil {
		t.Fatal(err)
	}
	return err == nil
}

// execAll runs the statements one by one, because some of them must not run in a transaction.
func execAll(t *testing.T, f *storetest.Fixture, statements string) {
	t.Helper()
	for statement := range strings.SplitSeq(statements, ";") {
		f.Exec(t, statement)
	}
}
