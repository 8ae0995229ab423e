package issuer

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/oauthapp"
)

// Issuer issues the codes, access tokens and refresh tokens of OAuth 2.0. Its database login needs only the role
// keywicket_issuer. An Issuer is safe for concurrent use.
//
// A call completes even if its context ends, for example because the client disconnects. A call takes at most three seconds.
//
// A code or a refresh token can be used only once. A second use means that two parties have the code or token. So the second use
// revokes the grant with all its tokens (RFC 6749, section 4.1.2; RFC 9700, section 4.14.2). Of two concurrent uses, exactly one
// succeeds. The only exception is a second use of a refresh token within [RefreshRequest].ReuseWindow.
type Issuer struct{ db *sqlx.DB }

// These are the lifetimes of codes and tokens.
const (
	CodeLifetime    = time.Minute
	AccessLifetime  = time.Hour // as in the section "Refreshing Tokens" of Velocity's API document
	RefreshLifetime = 30 * 24 * time.Hour
)

// ErrGrant means that a code or refresh token is unknown, expired, used or revoked. ErrReused wraps ErrGrant, and means that the
// code or token was used before. In this case, its grant is now revoked.
var (
	ErrGrant  = errors.New("the grant is invalid, expired or revoked")
	ErrReused = fmt.Errorf("%w: used a second time", ErrGrant)
)

// Open returns an issuer. The issuer connects when it is first used.
func Open(databaseURL string) (*Issuer, error) {
	const limit = 5 * time.Second
	connections, err := database.NewConnector(databaseURL, database.PoolerTransaction, limit) // without prepared statements, any pooler works
	if err != nil {
		return nil, err
	}
	db := database.OpenDB(connections)
	db.SetMaxOpenConns(database.DefaultMaxOpenConnections)
	db.SetConnMaxLifetime(database.ConnectionLifetime)
	return &Issuer{db}, nil
}

// Close closes the connections.
func (i *Issuer) Close() error { return i.db.Close() }

// Ready returns nil if the database is reachable and migrated, and the login has the privileges that issuing needs.
func (i *Issuer) Ready(ctx context.Context) error {
	var missing []string
	err := i.db.SelectContext(ctx, &missing, `
		SELECT name || ': ' || privilege FROM (VALUES
			('oauth_apps', 'SELECT'), ('oauth_grants', 'SELECT'), ('oauth_grants', 'INSERT'), ('oauth_grants', 'DELETE'),
			('oauth_grant_workspaces', 'INSERT'), ('oauth_codes', 'INSERT'), ('oauth_codes', 'DELETE'),
			('oauth_access_tokens', 'INSERT'), ('oauth_access_tokens', 'DELETE'),
			('oauth_refresh_tokens', 'INSERT'), ('oauth_refresh_tokens', 'DELETE')) AS needed (name, privilege)
		WHERE NOT has_table_privilege('keywicket.' || name, privilege)`)
	return database.CheckPrivileges("keywicket_issuer", missing, err)
}

// detachedContext returns a context that ends after three seconds, even if ctx ends earlier. The time limit of a connection is
// longer, so lib/pq can cancel the query before the connection is closed.
func detachedContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
}

// transact runs the parameter `f`, a function, in a transaction. If the result `err` of f is not nil, transact rolls back.
// Otherwise, transact commits, even if f refuses the request (the result `refused` is not nil). The function f must lock a grant
// before the codes and tokens of the grant, because a deletion locks them in this order. The lock timeout is short, so that not
// all connections wait for one lock.
func (i *Issuer) transact(
	ctx context.Context, f func(context.Context, *sqlx.Tx) (refused, err error),
) (refused, err error) {
	ctx, cancel := detachedContext(ctx)
	defer cancel()
	tx, err := i.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	if _, err = tx.ExecContext(ctx, `SET LOCAL lock_timeout = '1s'`); err == nil {
		refused, err = f(ctx, tx)
	}
	if err != nil {
		_ = tx.Rollback() // the caller needs only err; a connection that cannot roll back is closed
		return nil, err
	}
	return refused, tx.Commit()
}

// Client contains the data of an app that the issuer needs.
type Client struct {
	ID           string         `db:"id"`
	API          string         `db:"api"`
	Name         string         `db:"name"`
	RedirectURIs pq.StringArray `db:"redirect_uris"`
	Scopes       pq.StringArray `db:"scopes"` // of an authorization request without a scope; may be empty
	Confidential bool           `db:"confidential"`
	Development  bool           `db:"development"` // the app is in development, so its redirect URIs may have the host localhost
	secret       authz.Digest
}

// HasSecret reports whether the secret is the secret of the client.
func (c Client) HasSecret(secret authz.Secret) bool {
	digest := secret.Digest()
	return subtle.ConstantTimeCompare(digest[:], c.secret[:]) == 1
}

// Client returns an app that is not revoked. The error is [database.ErrNotFound] if no such app exists.
func (i *Issuer) Client(ctx context.Context, id string) (Client, error) {
	if !oauthapp.ValidID(id) { // Postgres might reject such a text with an error
		return Client{}, oauthapp.ErrUnknown
	}
	ctx, cancel := detachedContext(ctx)
	defer cancel()
	var row struct {
		Client
		Digest []byte `db:"secret_digest"`
	}
	err := i.db.GetContext(ctx, &row, `
		SELECT id, api, name, redirect_uris, a.scopes, confidential, a.development, secret_digest
		FROM (SELECT '{}'::text[] AS scopes, false AS development) missing -- until migrations 00014 and 00017 have added these columns; see lookup.MissingColumns
		CROSS JOIN LATERAL (SELECT id, api, name, redirect_uris, scopes, confidential, development, secret_digest, revoked_at
		                    FROM keywicket.oauth_apps) a
		WHERE id = $1 AND revoked_at IS NULL`, id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Client{}, oauthapp.ErrUnknown
	case err != nil:
		return Client{}, fmt.Errorf("find the app: %w", err)
	}
	copy(row.secret[:], row.Digest)
	return row.Client, nil
}

// Approval is a user's consent to an app.
type Approval struct {
	Client     string
	User       string // id
	Workspaces []string
	Scopes     []string
	// RedirectURI and Challenge (RFC 7636, S256) are stored, because the exchange of the code must check them.
	RedirectURI, Challenge string
}

// ApprovalResult is the result of an approval.
type ApprovalResult struct {
	Grant string // id
	Code  authz.Secret
}

// Approve creates a grant and a code for the grant. The error is [database.ErrInvalid] if the user does not exist or is not a
// member of every workspace, or if the app does not exist or is revoked.
func (i *Issuer) Approve(ctx context.Context, a Approval) (ApprovalResult, error) {
	approved := ApprovalResult{Code: oauthapp.NewSecret()}
	digest := approved.Code.Digest()
	if slices.ContainsFunc(a.Workspaces, func(id string) bool { return !authz.ValidWorkspaceID(id) }) {
		return ApprovalResult{}, errNoMember
	}
	_, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		if err := database.ActAs(ctx, tx, database.Actor{Kind: database.ActorUser, ID: a.User}); err != nil {
			return nil, err
		}
		err = tx.GetContext(ctx, &approved.Grant, `
			INSERT INTO keywicket.oauth_grants (app_id, user_id, scopes)
			SELECT a.id, u.id, $3 FROM keywicket.oauth_apps a, keywicket.users u
			WHERE a.id = $1 AND a.revoked_at IS NULL AND u.id = $2
			RETURNING id`, a.Client, a.User, database.NonNilArray(a.Scopes))
		if errors.Is(err, sql.ErrNoRows) {
			return nil, database.NewRefusal(database.ErrInvalid, "the app or the user no longer exists")
		}
		if err != nil {
			return nil, err
		}
		result, err := tx.ExecContext(ctx, `
			INSERT INTO keywicket.oauth_grant_workspaces (grant_id, workspace_id)
			SELECT $1, workspace_id FROM keywicket.members WHERE user_id = $2 AND workspace_id = ANY ($3)`,
			approved.Grant, a.User, database.NonNilArray(a.Workspaces))
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil || n != int64(len(a.Workspaces)) {
			return nil, errors.Join(err, errNoMember)
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO keywicket.oauth_codes (digest, grant_id, redirect_uri, code_challenge, expires_at)
			VALUES ($1, $2, $3, $4, clock_timestamp() + $5::float8 * interval '1 second')`,
			digest[:], approved.Grant, a.RedirectURI, a.Challenge, CodeLifetime.Seconds())
		return nil, err
	})
	if pq.As(err, pqerror.ForeignKeyViolation) != nil { // the user or a workspace was deleted after the check
		err = errNoMember
	}
	if err != nil {
		return ApprovalResult{}, fmt.Errorf("approve the app: %w", err)
	}
	return approved, nil
}

var errNoMember = database.NewRefusal(database.ErrInvalid, "the user is not a member of every workspace")

// Workspace contains the data of a workspace that the issuer needs.
type Workspace struct {
	ID        string    `db:"id"`
	Slug      string    `db:"slug"`
	Name      string    `db:"name"`
	CreatedAt time.Time `db:"created_at"`
}

// ConsentUser is a user who decides about consent. It contains the workspaces to which the user can grant access.
type ConsentUser struct {
	lookup.User
	Workspaces []Workspace
}

// ConsentUser returns the user of a session. The error is [database.ErrNotFound] if the user does not exist or is banned, or if
// the session was revoked.
func (i *Issuer) ConsentUser(ctx context.Context, s authz.Session) (ConsentUser, error) {
	ctx, cancel := detachedContext(ctx)
	defer cancel()
	u, err := lookup.SessionUser(ctx, i.db, s)
	if err != nil {
		return ConsentUser{}, err
	}
	c := ConsentUser{User: u}
	err = i.db.SelectContext(ctx, &c.Workspaces, `
		SELECT w.id, w.slug, w.name, w.created_at FROM keywicket.members m JOIN keywicket.workspaces w ON w.id = m.workspace_id
		WHERE m.user_id = $1 ORDER BY lower(w.name), w.slug`, c.ID)
	if err != nil {
		return ConsentUser{}, fmt.Errorf("find the user's workspaces: %w", err)
	}
	return c, nil
}
