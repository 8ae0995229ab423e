package schema

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	versionTable = "keywicket.migrations"
	// migrationLock is the key of the advisory lock, a random number. goose's default key is not suitable, because the product's
	// own migrations in the same database may use it.
	migrationLock = 7_161_532_148_870_344_113
	// migrationWait is how long a call of Migrate waits for another call to end.
	migrationWait  = 5 * time.Minute
	migrationPause = 500 * time.Millisecond
)

// Applied is a migration that [Migrate] ran.
type Applied struct {
	Version  int64         `json:"version"`
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`
}

// Migration is a migration that this version of keywicket contains.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // nil if the migration is pending
}

// Migrate runs the pending migrations, each in its own transaction. It returns the migrations that it ran, even if it also
// returns an error. If another call for the same database is running, Migrate waits for the end of that call.
//
// Migrations cannot be undone. To correct a wrong migration, add a later migration.
func Migrate(ctx context.Context, db *sqlx.DB) ([]Applied, error) {
	provider, err := migrations(db)
	if err != nil {
		return nil, err
	}
	results, err := provider.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		results = partial.Applied
	}
	applied := make([]Applied, len(results))
	for i, r := range results {
		applied[i] = Applied{Version: r.Source.Version, Name: migrationName(r.Source), Duration: r.Duration}
	}
	if err != nil {
		return applied, fmt.Errorf("migrate the schema keywicket: %w", err)
	}
	return applied, nil
}

// Status lists the migrations that this version contains, in order. Status changes nothing, and works even on a database that was
// never migrated.
func Status(ctx context.Context, db *sqlx.DB) ([]Migration, error) {
	provider, err := migrations(db)
	if err != nil {
		return nil, err
	}
	applied, err := appliedMigrations(ctx, db)
	if err != nil {
		return nil, err
	}
	status := make([]Migration, 0, len(provider.ListSources()))
	for _, source := range provider.ListSources() {
		m := Migration{Version: source.Version, Name: migrationName(source)}
		if at, ok := applied[m.Version]; ok {
			m.AppliedAt = &at
		}
		status = append(status, m)
	}
	return status, nil
}

// appliedMigrations maps each applied version to the time at which it was applied. It does not use goose's function for the
// status, because that function would create the version table.
func appliedMigrations(ctx context.Context, db *sqlx.DB) (map[int64]time.Time, error) {
	var exists bool
	err := db.GetContext(ctx, &exists, `SELECT to_regclass($1) IS NOT NULL`, versionTable)
	if err != nil {
		return nil, fmt.Errorf("look for the schema keywicket: %w", err)
	}
	if !exists {
		return nil, nil
	}
	var rows []struct {
		Version int64     `db:"version_id"`
		At      time.Time `db:"tstamp"`
	}
	err = db.SelectContext(ctx, &rows, `SELECT version_id, tstamp FROM `+versionTable+` WHERE is_applied`)
	if err != nil {
		return nil, fmt.Errorf("read the schema's version: %w", err)
	}
	applied := make(map[int64]time.Time, len(rows))
	for _, r := range rows {
		applied[r.Version] = r.At
	}
	return applied, nil
}

func migrations(db *sqlx.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return nil, fmt.Errorf("prepare the migrations: %w", err)
	}
	provider, err := goose.NewProvider("", db.DB, files, goose.WithStore(versionStore{store}),
		goose.WithLocker(new(migrationLocker)), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("prepare the migrations: %w", err)
	}
	return provider, nil
}

// migrationLocker makes concurrent migrations wait. During the migrations, the transaction lockTx stays open and has the
// advisory lock. goose's own session lock does not work through a transaction pooler, where each transaction may get another
// connection.
type migrationLocker struct{ lockTx *sql.Tx }

// Lock implements goose's Locker. While Lock waits, it keeps no transaction open, because through a pooler an open transaction
// would occupy a connection that the other migration needs.
func (l *migrationLocker) Lock(ctx context.Context, db *sql.DB) error {
	for began := time.Now(); time.Since(began) < migrationWait; {
		locked, err := l.tryLock(ctx, db)
		if err != nil {
			return fmt.Errorf("wait for another migration: %w", err)
		}
		if locked {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(migrationPause/2 + rand.N(migrationPause)):
		}
	}
	return fmt.Errorf("another migration has not ended within %v", migrationWait)
}

func (l *migrationLocker) tryLock(ctx context.Context, db *sql.DB) (locked bool, err error) {
	// While the transaction is open, it must have no snapshot, because CREATE INDEX CONCURRENTLY would wait for its end. So it does not
	// have the isolation level repeatable read, and its query has no parameter: the portal of a query with parameters stays open, and
	// has a snapshot.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return false, err
	}
	_, err = tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`)
	if err == nil {
		err = tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT pg_try_advisory_xact_lock(%d)`, migrationLock)).Scan(&locked)
	}
	if err != nil || !locked {
		return false, errors.Join(err, tx.Rollback())
	}
	l.lockTx = tx
	return true, nil
}

// Unlock implements goose's Locker.
func (l *migrationLocker) Unlock(context.Context, *sql.DB) error { return l.lockTx.Rollback() }

func migrationName(s *goose.Source) string {
	name := strings.TrimSuffix(path.Base(s.Path), ".sql")
	_, name, _ = strings.Cut(name, "_")
	return name
}

// versionStore keeps goose's version table in the schema keywicket, and creates the schema and the table. goose calls these
// methods in a transaction while migrationLocker is locked.
type versionStore struct{ database.Store }

func (versionStore) CreateVersionTable(ctx context.Context, db database.DBTxConn) error {
	// Check first whether the schema exists, because CREATE SCHEMA IF NOT EXISTS requires the privilege to create schemas even if
	// the schema exists.
	_, err := db.ExecContext(ctx, `
		DO $$ BEGIN
			IF to_regnamespace('keywicket') IS NULL THEN CREATE SCHEMA keywicket; END IF;
		END $$;
		CREATE TABLE `+versionTable+` (
			id         integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
			version_id bigint      NOT NULL,
			is_applied boolean     NOT NULL,
			tstamp     timestamptz NOT NULL DEFAULT clock_timestamp()
		)`)
	if err != nil {
		return fmt.Errorf("create the schema keywicket: %w", err)
	}
	return nil
}

// TableExists replaces goose's query, which would log an error on the server.
func (versionStore) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	var exists bool
	err := db.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, versionTable).Scan(&exists)
	return exists, err
}
