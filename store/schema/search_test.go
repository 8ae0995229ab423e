package schema_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

const insertSearchToken = `INSERT INTO keywicket.tokens (id, api, kind, environment, visible_prefix, digest, name, scopes, user_id)
	VALUES ($1::text, 'velocity', 'personal_key', 'live', 'velu_', sha256(convert_to($1::text, 'UTF8')), 'n', '{}', 'ada')`

// While migration 00026 builds its indexes, tokens are created. An invalid index of an earlier attempt is built again. The migration
// also ends if the database has another isolation level.
func TestSearchIndexes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	url := storetest.EmptyDatabase(t)
	db := storetest.OpenDB(t, url)
	if err := schema.MigrateTo(ctx, db, 25); err != nil {
		t.Fatal(err)
	}
	db.MustExec(`INSERT INTO keywicket.users (id, email) VALUES ('ada', 'ada@example.com')`)
	db.MustExec(`CREATE INDEX tokens_workspace_name ON keywicket.tokens (name)`)
	db.MustExec(`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keywicket.tokens_workspace_name'::regclass`)
	db.MustExec(`ALTER DATABASE ` + storetest.DatabaseOf(url) + ` SET default_transaction_isolation = 'repeatable read'`)
	long := storetest.Must(db.BeginTxx(ctx, nil))
	defer func() { _ = long.Rollback() }()
	storetest.Must(long.ExecContext(ctx, insertSearchToken, "before"))
	migrated := make(chan error)
	go func() {
		_, err := schema.Migrate(ctx, storetest.OpenDB(t, url))
		migrated <- err
	}()
	storetest.Eventually(t, "the migration waits for the transaction", func() bool {
		return storetest.Value[bool](t, db, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX%')`)
	})
	writing, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	if _, err := db.ExecContext(writing, insertSearchToken, "meanwhile"); err != nil {
		t.Errorf("creating a token while the migration waits: %v", err)
	}
	if err := long.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	var indexes []string
	if err := db.SelectContext(ctx, &indexes, `SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = 'keywicket.tokens'::regclass AND i.indisvalid AND c.relname LIKE ANY (ARRAY['tokens_workspace_%', 'tokens_user_%', '%prefix'])
		ORDER BY c.relname`); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"tokens_prefix", "tokens_user_newest", "tokens_workspace_expiry", "tokens_workspace_name", "tokens_workspace_newest", "tokens_workspace_revoked",
	}
	if !slices.Equal(indexes, want) {
		t.Errorf("the valid indexes are %q", indexes)
	}
}
