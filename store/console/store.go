package console

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/registry"
)

// Store is the console's database. A Store is safe for concurrent use.
type Store struct {
	// Registry makes changes. Use Registry.Acting, so that the audit log has the actor.
	Registry *registry.Registry
	db       *sqlx.DB
}

// Open returns a store. The store connects when it is first used.
func Open(databaseURL string) (*Store, error) {
	const limit = 5 * time.Second
	connections, err := database.NewConnector(databaseURL, database.PoolerTransaction, limit) // without prepared statements, any pooler works
	if err != nil {
		return nil, err
	}
	db := database.OpenDB(connections)
	db.SetMaxOpenConns(database.DefaultMaxOpenConnections)
	db.SetConnMaxLifetime(database.ConnectionLifetime)
	return &Store{registry.New(db), db}, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.db.Close() }

// Ready returns nil if the database is reachable and migrated, and the login has the privileges of the role keywicket_console.
func (s *Store) Ready(ctx context.Context) error {
	var missing []string
	err := s.db.SelectContext(ctx, &missing, `
		SELECT needed.name || ': ' || privilege || COALESCE(' (' || columns || ')', '') FROM (VALUES
			('workspaces', 'SELECT', 'leaver_rule'), ('workspaces', 'UPDATE', 'leaver_rule'),
			('users', 'SELECT', 'mfa_enrolled'), ('members', 'SELECT', 'role'), ('revoked_sessions', 'SELECT', 'revoked_at'),
			('tokens', 'SELECT', 'created_by'), ('tokens', 'SELECT', 'revoked_reason'), ('tokens', 'INSERT', 'digest'),
			('tokens', 'UPDATE', 'revoked_at'), ('token_usage', 'SELECT', 'last_used_at'), ('token_use', 'SELECT', 'denied'),
			('oauth_apps', 'SELECT', 'owner_id'), ('oauth_apps', 'INSERT', 'owner_id'), ('oauth_apps', 'UPDATE', 'secret_digest'),
			('oauth_grants', 'SELECT', 'revoked_reason'), ('oauth_grants', 'UPDATE', 'revoked_at'), ('grant_usage', 'SELECT', 'last_used_at'),
			('oauth_grant_workspaces', 'SELECT', 'workspace_id'), ('oauth_access_tokens', 'SELECT', 'revoked_at'),
			('oauth_codes', 'SELECT', 'used_at'), ('oauth_refresh_tokens', 'SELECT', 'used_at'), ('audit_log', 'SELECT', 'id'),
			('idempotency_keys', 'INSERT', 'digest'), ('idempotency_keys', 'UPDATE', 'object_id'), ('idempotency_keys', 'DELETE', NULL)
		) AS needed (name, privilege, columns)
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass('keywicket.' || needed.name) AND a.attname = columns
		WHERE NOT COALESCE(CASE WHEN columns IS NULL THEN has_table_privilege(to_regclass('keywicket.' || needed.name), privilege)
			ELSE has_column_privilege(a.attrelid, a.attnum, privilege) END, false)
		UNION ALL
		SELECT name || ': EXECUTE' FROM (VALUES ('shorten_token(text, interval)'), ('revoke_leaked(bytea[])')) AS needed (name)
		WHERE NOT COALESCE(has_function_privilege(to_regprocedure('keywicket.' || name), 'EXECUTE'), false)`)
	return database.CheckPrivileges("keywicket_console", missing, err)
}

// User is a user of the console.
type User = lookup.User

// SessionUser returns the user of a session: see [lookup.SessionUser].
func (s *Store) SessionUser(ctx context.Context, session authz.Session) (User, error) {
	return lookup.SessionUser(ctx, s.db, session)
}

// Membership is a workspace with the role that a user has in it.
type Membership struct {
	ID        string    `db:"id" json:"id"`
	Slug      string    `db:"slug" json:"slug"`
	Name      string    `db:"name" json:"name"`
	Role      string    `db:"role" json:"role"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
}

// Memberships returns the user's workspaces, sorted by name.
func (s *Store) Memberships(ctx context.Context, user string) ([]Membership, error) {
	list := []Membership{}
	err := s.db.SelectContext(ctx, &list, `
		SELECT w.id, w.slug, w.name, w.created_at, m.role FROM keywicket.members m JOIN keywicket.workspaces w ON w.id = m.workspace_id
		WHERE m.user_id = $1 ORDER BY lower(w.name), w.slug`, user)
	if err != nil {
		return nil, fmt.Errorf("find the user's workspaces: %w", err)
	}
	return list, nil
}
