package schema_test

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// A login with the role keywicket_operator cannot do more than the operator's commands. TestOperatorsLoginRunsEveryCommand and
// TestOperatorsRoleHasNoPrivilegeTooMany run these commands. This test uses a login, because a superuser who has only set the role
// may set another role.
func TestOperatorsLoginCannotDoMore(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `CREATE ROLE test_operator LOGIN PASSWORD 'p' IN ROLE keywicket_operator`)
	f.Exec(t, `CREATE ROLE test_other`)
	defer f.Exec(t, `DROP ROLE test_operator, test_other`)
	u := storetest.Must(url.Parse(f.URL))
	u.User = url.UserPassword("test_operator", "p")
	db := storetest.OpenDB(t, u.String())
	for _, statement := range []string{`SELECT id FROM keywicket.tokens`, `INSERT INTO keywicket.changes (keys) VALUES ('*')`} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	for _, statement := range []string{
		// Secrets of apps, and what only the issuer and the sidecar read.
		`SELECT secret_digest FROM keywicket.oauth_apps`,
		`SELECT digest FROM keywicket.oauth_codes`,
		`SELECT code_challenge FROM keywicket.oauth_codes`,
		`SELECT digest FROM keywicket.oauth_refresh_tokens`,
		`SELECT keys FROM keywicket.changes`,
		`SELECT world FROM keywicket.world`,
		`SELECT mark FROM keywicket.upkeep`,
		`SELECT rolpassword FROM pg_authid`,
		// The identity and the rights of an existing object.
		`UPDATE keywicket.tokens SET scopes = '{admin:all}'`,
		`UPDATE keywicket.tokens SET digest = sha256('x')`,
		`UPDATE keywicket.tokens SET workspace_id = '` + f.Globex.ID + `'`,
		`UPDATE keywicket.tokens SET expires_at = NULL`,
		`UPDATE keywicket.tokens SET revoked_reason = NULL`,
		`UPDATE keywicket.users SET email = 'x@example.com'`,
		`UPDATE keywicket.users SET banned_until = NULL`,
		`UPDATE keywicket.users SET mfa_enrolled = true`,
		`UPDATE keywicket.workspaces SET slug = 'x'`,
		`UPDATE keywicket.members SET user_id = 'x'`,
		`UPDATE keywicket.oauth_apps SET redirect_uris = '{https://evil.example}'`,
		`UPDATE keywicket.oauth_grants SET scopes = '{admin}'`,
		`UPDATE keywicket.revoked_sessions SET revoked_at = 'epoch'`,
		`UPDATE keywicket.token_usage SET last_used_at = now()`,
		// What only the issuer and the sidecars write.
		`INSERT INTO keywicket.oauth_grants (app_id, user_id, scopes) VALUES ('a', 'b', '{}')`,
		`INSERT INTO keywicket.oauth_grant_workspaces VALUES ('a', 'b')`,
		`INSERT INTO keywicket.oauth_codes (digest) VALUES (sha256('x'))`,
		`INSERT INTO keywicket.oauth_refresh_tokens (digest) VALUES (sha256('x'))`,
		`INSERT INTO keywicket.oauth_access_tokens (digest) VALUES (sha256('x'))`,
		`INSERT INTO keywicket.token_usage VALUES ('x', now())`,
		`INSERT INTO keywicket.token_use VALUES ('x', now(), 1, 1)`,
		`INSERT INTO keywicket.grant_usage VALUES ('x', now())`,
		`INSERT INTO keywicket.revoked_sessions (session_id, revoked_at) VALUES ('s', 'epoch')`,
		`INSERT INTO keywicket.changes (xid, keys) VALUES ('1', '*')`,
		`UPDATE keywicket.sidecars SET seen_at = now()`,
		`UPDATE keywicket.world SET told = true`,
		`UPDATE keywicket.upkeep SET number = number + 2`,
		`UPDATE keywicket.migrations SET version_id = 1`,
		`SELECT keywicket.keep_up()`,
		`DELETE FROM keywicket.audit_log`,
		`SELECT keywicket.expire_audit_log('1 day')`,
		// The change log and the triggers that write it.
		`DELETE FROM keywicket.changes`,
		`UPDATE keywicket.changes SET keys = ''`,
		`TRUNCATE keywicket.changes`,
		`ALTER TABLE keywicket.tokens DISABLE TRIGGER ALL`,
		`ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`,
		`DROP TRIGGER tell_update ON keywicket.tokens`,
		`SET session_replication_role = replica`,
		`CREATE RULE x AS ON INSERT TO keywicket.changes DO INSTEAD NOTHING`,
		`CREATE TRIGGER x BEFORE INSERT ON keywicket.tokens FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
		`CREATE OR REPLACE FUNCTION keywicket.change_key(kind text, name text) RETURNS text LANGUAGE sql RETURN ''`,
		`CALL keywicket.tell_changes_of('tokens', '')`,
		`CALL keywicket.tell_rows_of('tokens', '')`,
		// Deletion, and the schema.
		`DELETE FROM keywicket.tokens`,
		`DELETE FROM keywicket.users`,
		`DELETE FROM keywicket.workspaces`,
		`DELETE FROM keywicket.oauth_apps`,
		`DELETE FROM keywicket.oauth_grants`,
		`DELETE FROM keywicket.revoked_sessions`,
		`TRUNCATE keywicket.members`,
		`DO $$ BEGIN LOCK keywicket.oauth_codes IN ACCESS EXCLUSIVE MODE; END $$`,
		`DROP TABLE keywicket.tokens`,
		`DROP SCHEMA keywicket CASCADE`,
		`ALTER TABLE keywicket.tokens ADD COLUMN x int`,
		`ALTER TABLE keywicket.tokens OWNER TO test_operator`,
		`CREATE TABLE keywicket.x ()`,
		`CREATE VIEW keywicket.x AS SELECT 1`,
		`CREATE INDEX ON keywicket.tokens (name)`,
		`CREATE SCHEMA other`,
		`GRANT SELECT ON keywicket.tokens TO test_other`,
		`GRANT keywicket_operator TO test_other`,
		// Other roles.
		`SET ROLE keywicket_sidecar`,
		`SET ROLE keywicket_issuer`,
		`SET ROLE postgres`,
		`SET SESSION AUTHORIZATION postgres`,
		`CREATE ROLE x`,
		`ALTER ROLE test_other LOGIN`,
		`ALTER ROLE keywicket_operator LOGIN`,
		`DROP ROLE keywicket_sidecar`,
		`CREATE DATABASE x`,
		`COPY keywicket.changes TO PROGRAM 'true'`,
		`SELECT pg_read_file('postgresql.conf')`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); pq.As(err, pqerror.InsufficientPrivilege) == nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if storetest.Value[bool](t, f.DB, `SELECT rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication
		FROM pg_roles WHERE rolname = 'keywicket_operator'`) {
		t.Error("the role can log in, or has an attribute")
	}
}

// The login of the migration needs no more than a database of its own. If it may not create roles, the error names the statement that
// an administrator has to run. After this statement, the migration continues. The roles belong to the whole cluster, so this test
// starts its own cluster.
func TestMigrateWithAnOrdinaryLogin(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster := storetest.Must(postgres.Start(ctx, postgres.Config{}))
	defer func() { _ = cluster.Close() }()
	administrator := storetest.OpenDB(t, cluster.URL("postgres"))
	for _, statement := range []string{`CREATE ROLE owner LOGIN PASSWORD 'p'`, `CREATE DATABASE owned OWNER owner`} {
		storetest.Must(administrator.ExecContext(ctx, statement))
	}
	u := storetest.Must(url.Parse(cluster.URL("owned")))
	u.User = url.UserPassword("owner", "p")
	db := storetest.OpenDB(t, u.String())
	named := regexp.MustCompile(`the login owner has no permission to create a role: let an administrator run (CREATE ROLE (keywicket_\w+) NOLOGIN), then migrate again`)
	var roles []string
	_, err := schema.Migrate(ctx, db)
	for err != nil {
		statement := named.FindStringSubmatch(err.Error())
		if statement == nil {
			t.Fatal(err)
		}
		roles = append(roles, statement[2])
		storetest.Must(administrator.ExecContext(ctx, statement[1]))
		_, err = schema.Migrate(ctx, db)
	}
	if want := []string{"keywicket_sidecar", "keywicket_issuer", "keywicket_operator", "keywicket_retention", "keywicket_console"}; !slices.Equal(roles, want) {
		t.Errorf("the errors named the roles %q, want %q", roles, want)
	}
	// The functions with the privileges of this owner work.
	storetest.Must(db.ExecContext(ctx, `UPDATE keywicket.upkeep SET marked_at = '-infinity'`))
	storetest.Must(db.ExecContext(ctx, `SELECT keywicket.keep_up()`))
	storetest.Must(db.ExecContext(ctx, `INSERT INTO keywicket.workspaces (id, slug, name) VALUES ('64f1a2b3c4d5e6f7a8b9c0d1', 'acme', 'Acme')`))
	storetest.Must(db.ExecContext(ctx, `SELECT keywicket.expire_audit_log('1 day')`))
}
