package store

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
)

// Issuer is the side of the store that grants: codes, access tokens and refresh tokens of OAuth 2.0. The login needs no
// more than the role keywicket_issuer. It is safe for concurrent use.
//
// Whoever hangs up does not undo what he has asked for: what was begun ends, also if the context does, within three seconds.
//
// Codes and refresh tokens are good for one use. A second one shows that two have them, and revokes the grant with every
// token of it (RFC 6749, section 4.1.2; RFC 9700, section 4.14.2). Of two uses at the same time exactly one is the first.
type Issuer struct{ db *sqlx.DB }

// How long what an Issuer makes is good for.
const (
	CodeLifetime    = time.Minute
	AccessLifetime  = time.Hour // velocity, "Refreshing Tokens"
	RefreshLifetime = 30 * 24 * time.Hour
)

// ErrGrant says that a code or refresh token is unknown, expired, used or revoked. ErrReused is one: it was used before, and its
// grant is revoked now.
var (
	ErrGrant  = errors.New("the grant is not, or no longer, good")
	ErrReused = fmt.Errorf("%w: used a second time", ErrGrant)
)

// OpenIssuer makes an issuer, which connects when it is first used.
func OpenIssuer(databaseURL string) (*Issuer, error) {
	const limit = 5 * time.Second
	connections, err := newConnector(databaseURL, PoolerTransaction, limit) // it prepares nothing, as Open
	if err != nil {
		return nil, err
	}
	db := open(connections)
	db.SetMaxOpenConns(defaultMaxOpenConnections)
	db.SetConnMaxLifetime(connectionLifetime)
	return &Issuer{db}, nil
}

// Close ends the connections.
func (i *Issuer) Close() error { return i.db.Close() }

// Ready reports whether the database is there, is migrated, and lets this login grant.
func (i *Issuer) Ready(ctx context.Context) error {
	var missing []string
	err := i.db.SelectContext(ctx, &missing, `
		SELECT name || ': ' || privilege FROM (VALUES
			('oauth_apps', 'SELECT'), ('oauth_grants', 'SELECT'), ('oauth_grants', 'INSERT'), ('oauth_grants', 'DELETE'),
			('oauth_grant_workspaces', 'INSERT'), ('oauth_codes', 'INSERT'), ('oauth_codes', 'DELETE'),
			('oauth_access_tokens', 'INSERT'), ('oauth_access_tokens', 'DELETE'),
			('oauth_refresh_tokens', 'INSERT'), ('oauth_refresh_tokens', 'DELETE')) AS needed (name, privilege)
		WHERE NOT has_table_privilege('keywicket.' || name, privilege)`)
	switch {
	case err != nil:
		return fmt.Errorf("ask the database: %w", err)
	case len(missing) > 0:
		return fmt.Errorf("the login lacks rights (%s): run keywicket migrate up, and give it the role keywicket_issuer", strings.Join(missing, ", "))
	}
	return nil
}

// bounded is less than the limit of a connection, so that the database is told to stop, and no connection is left waiting there.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
}

// Client is an app as it is known to the issuer.
type Client struct {
	ID           string         `db:"id"`
	API          string         `db:"api"`
	Name         string         `db:"name"`
	RedirectURIs pq.StringArray `db:"redirect_uris"`
	Confidential bool           `db:"confidential"`
	secret       authz.Digest
}

// Knows reports whether the secret is the client's.
func (c Client) Knows(secret authz.Secret) bool {
	digest := secret.Digest()
	return subtle.ConstantTimeCompare(digest[:], c.secret[:]) == 1
}

// Client finds an app that is not revoked. [ErrNotFound]: there is none.
func (i *Issuer) Client(ctx context.Context, id string) (Client, error) {
	if !appID.MatchString(id) { // it may be no text that Postgres takes
		return Client{}, errNoApp
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	var row struct {
		Client
		Digest []byte `db:"secret_digest"`
	}
	err := i.db.GetContext(ctx, &row, `
		SELECT id, api, name, redirect_uris, confidential, secret_digest FROM keywicket.oauth_apps
		WHERE id = $1 AND revoked_at IS NULL`, id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Client{}, errNoApp
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
	// RedirectURI and Challenge (RFC 7636, S256) have to come back with the code.
	RedirectURI, Challenge string
}

// Approved is what comes of an approval.
type Approved struct {
	Grant string // id
	Code  authz.Secret
}

// Approve makes a grant, and a code for it. [ErrInvalid]: the user is not a member of every workspace, or the app or the
// user is no more.
func (i *Issuer) Approve(ctx context.Context, a Approval) (Approved, error) {
	made := Approved{Code: newSecret()}
	digest := made.Code.Digest()
	if slices.ContainsFunc(a.Workspaces, func(id string) bool { return !authz.ValidWorkspaceID(id) }) {
		return Approved{}, errNoMember
	}
	_, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		err = tx.GetContext(ctx, &made.Grant, `
			INSERT INTO keywicket.oauth_grants (app_id, user_id, scopes)
			SELECT a.id, u.id, $3 FROM keywicket.oauth_apps a, keywicket.users u
			WHERE a.id = $1 AND a.revoked_at IS NULL AND u.id = $2
			RETURNING id`, a.Client, a.User, orNone(a.Scopes))
		if errors.Is(err, sql.ErrNoRows) {
			return nil, refuse(ErrInvalid, "the app or the user is no more")
		}
		if err != nil {
			return nil, err
		}
		result, err := tx.ExecContext(ctx, `
			INSERT INTO keywicket.oauth_grant_workspaces (grant_id, workspace_id)
			SELECT $1, workspace_id FROM keywicket.members WHERE user_id = $2 AND workspace_id = ANY ($3)`,
			made.Grant, a.User, orNone(a.Workspaces))
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil || n != int64(len(a.Workspaces)) {
			return nil, errors.Join(err, errNoMember)
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO keywicket.oauth_codes (digest, grant_id, redirect_uri, code_challenge, expires_at)
			VALUES ($1, $2, $3, $4, clock_timestamp() + $5::float8 * interval '1 second')`,
			digest[:], made.Grant, a.RedirectURI, a.Challenge, CodeLifetime.Seconds())
		return nil, err
	})
	if pq.As(err, pqerror.ForeignKeyViolation) != nil { // the user went meanwhile, or the workspace
		err = errNoMember
	}
	if err != nil {
		return Approved{}, fmt.Errorf("approve the app: %w", err)
	}
	return made, nil
}

var errNoMember = refuse(ErrInvalid, "the user is not a member of every workspace")

func orNone(list []string) pq.StringArray {
	if list == nil {
		return pq.StringArray{}
	}
	return list
}

// Issued is what an app gets. With [ErrReused] there is the grant alone.
type Issued struct {
	Grant           string // id
	Access, Refresh authz.Secret
	Scopes          []string
}

// Code is what a code was made for.
type Code struct {
	Client      string `db:"app_id"`
	RedirectURI string `db:"redirect_uri"`
	Challenge   string `db:"code_challenge"`
}

// Exchange gives tokens for a code. The check holds the code against the request; what it refuses has used up the code all
// the same, and its error is returned. [ErrGrant]: the code is not, or no longer, good.
func (i *Issuer) Exchange(
	ctx context.Context, code authz.Secret, format authz.CredentialFormat, check func(Code) error,
) (Issued, error) {
	var issued Issued
	digest := code.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		var row struct {
			Code
			state
		}
		err = tx.GetContext(ctx, &row, `
			SELECT g.app_id, c.redirect_uri, c.code_challenge, g.id, g.scopes, c.used_at IS NOT NULL AS used,
			       c.expires_at <= clock_timestamp() OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL OR `+banned+` AS over
			FROM keywicket.oauth_codes c
			JOIN keywicket.oauth_grants g ON g.id = c.grant_id
			JOIN keywicket.oauth_apps a ON a.id = g.app_id
			CROSS JOIN `+noFacts+`
			JOIN `+users+` ON u.id = g.user_id
			WHERE c.digest = $1 FOR UPDATE OF g, c`, digest[:])
		issued.Grant = row.Grant
		if refused, err = row.use(ctx, tx, err, `oauth_codes`, digest); refused != nil || err != nil {
			return refused, err
		}
		if refused = check(row.Code); refused != nil {
			return refused, nil
		}
		issued, err = row.issue(ctx, tx, format, row.Scopes)
		return nil, err
	})
	if err != nil {
		return Issued{}, fmt.Errorf("exchange the code: %w", err)
	}
	return issued, refused
}

// Refreshing is what a refresh token stands for.
type Refreshing struct {
	Client string         `db:"app_id"`
	Scopes pq.StringArray `db:"scopes"` // all that were granted
}

// Refresh gives tokens for a refresh token: a new one of the same scopes, and an access token of the scopes that the check
// chooses among them. What the check refuses uses up nothing, and its error is returned. [ErrGrant]: the token is not, or no
// longer, good.
func (i *Issuer) Refresh(
	ctx context.Context, refresh authz.Secret, format authz.CredentialFormat, check func(Refreshing) ([]string, error),
) (Issued, error) {
	var issued Issued
	digest := refresh.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		var row struct {
			Client string `db:"app_id"`
			state
		}
		err = tx.GetContext(ctx, &row, `
			SELECT g.app_id, g.id, g.scopes, r.used_at IS NOT NULL AS used,
			       r.expires_at <= clock_timestamp() OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL OR `+banned+` AS over
			FROM keywicket.oauth_refresh_tokens r
			JOIN keywicket.oauth_grants g ON g.id = r.grant_id
			JOIN keywicket.oauth_apps a ON a.id = g.app_id
			CROSS JOIN `+noFacts+`
			JOIN `+users+` ON u.id = g.user_id
			WHERE r.digest = $1 FOR UPDATE OF g, r`, digest[:])
		var scopes []string
		if err == nil && !row.Used && !row.Over {
			if scopes, refused = check(Refreshing{row.Client, row.Scopes}); refused != nil {
				return refused, nil
			}
		}
		issued.Grant = row.Grant
		if refused, err = row.use(ctx, tx, err, `oauth_refresh_tokens`, digest); refused != nil || err != nil {
			return refused, err
		}
		issued, err = row.issue(ctx, tx, format, scopes)
		return nil, err
	})
	if err != nil {
		return Issued{}, fmt.Errorf("refresh the grant: %w", err)
	}
	return issued, refused
}

// state of a grant, and of the code or token that stands for it.
type state struct {
	Grant  string         `db:"id"`
	Scopes pq.StringArray `db:"scopes"`
	Used   bool           `db:"used"`
	Over   bool           `db:"over"`
}

// use marks the code or token as used. What was used before ends the grant. Refusals are to be committed.
func (s state) use(ctx context.Context, tx *sqlx.Tx, found error, table string, digest authz.Digest) (refused, err error) {
	switch {
	case errors.Is(found, sql.ErrNoRows):
		return ErrGrant, nil
	case found != nil:
		return nil, found
	case s.Used:
		_, err := tx.ExecContext(ctx, `
			UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`, s.Grant)
		return ErrReused, err
	case s.Over:
		return ErrGrant, nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE keywicket.`+table+` SET used_at = clock_timestamp() WHERE digest = $1`, digest[:])
	return nil, err
}

// issue makes an access token of the scopes, and a refresh token.
func (s state) issue(ctx context.Context, tx *sqlx.Tx, format authz.CredentialFormat, scopes []string) (Issued, error) {
	issued := Issued{Grant: s.Grant, Access: format.NewKey(), Refresh: newSecret(), Scopes: scopes}
	access, refresh := issued.Access.Digest(), issued.Refresh.Digest()
	_, err := tx.ExecContext(ctx, `
		INSERT INTO keywicket.oauth_access_tokens (digest, grant_id, scopes, expires_at)
		VALUES ($1, $2, $3, clock_timestamp() + $4::float8 * interval '1 second')`,
		access[:], s.Grant, orNone(scopes), AccessLifetime.Seconds())
	if err != nil {
		return Issued{}, err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO keywicket.oauth_refresh_tokens (digest, grant_id, expires_at)
		VALUES ($1, $2, clock_timestamp() + $3::float8 * interval '1 second')`, refresh[:], s.Grant, RefreshLifetime.Seconds())
	return issued, err
}

// transact commits what f has done, also if it comes to a refusal, unless f fails. Whoever locks a grant and what stands for it
// locks the grant first, as its deletion does. It is not waited for long: behind one lock all connections would soon wait.
func (i *Issuer) transact(
	ctx context.Context, f func(context.Context, *sqlx.Tx) (refused, err error),
) (refused, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	tx, err := i.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	if _, err = tx.ExecContext(ctx, `SET LOCAL lock_timeout = '1s'`); err == nil {
		refused, err = f(ctx, tx)
	}
	if err != nil {
		_ = tx.Rollback() // the error says why, and a connection that cannot roll back is closed
		return nil, err
	}
	return refused, tx.Commit()
}

// Revoke ends what a client has: with a refresh token the whole grant, with an access token that token alone (RFC 7009,
// section 2.1), and tells whose it was. A token that is not there is none to end. [ErrGrant]: it is another client's.
func (i *Issuer) Revoke(ctx context.Context, token authz.Secret, client string) (grant string, err error) {
	digest := token.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		for _, revoke := range []struct{ find, end string }{
			{
				`SELECT g.app_id, g.id, g.id FROM keywicket.oauth_refresh_tokens r JOIN keywicket.oauth_grants g ON g.id = r.grant_id WHERE r.digest = $1`,
				`UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`,
			},
			{
				`SELECT g.app_id, g.id, t.id FROM keywicket.oauth_access_tokens t JOIN keywicket.oauth_grants g ON g.id = t.grant_id WHERE t.digest = $1`,
				`UPDATE keywicket.oauth_access_tokens SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`,
			},
		} {
			var owner, of, id string
			switch err := tx.QueryRowContext(ctx, revoke.find, digest[:]).Scan(&owner, &of, &id); {
			case errors.Is(err, sql.ErrNoRows):
				continue
			case err != nil:
				return nil, err
			case owner != client:
				return ErrGrant, nil
			}
			grant = of
			_, err := tx.ExecContext(ctx, revoke.end, id)
			return nil, err
		}
		return nil, nil
	})
	if err != nil {
		return "", fmt.Errorf("revoke the token: %w", err)
	}
	return grant, refused
}

// Introspection is what is known of an access token that is good (RFC 7662, section 2.2).
type Introspection struct {
	Client    string         `db:"app_id"`
	User      string         `db:"user_id"`
	Scopes    pq.StringArray `db:"scopes"`
	CreatedAt time.Time      `db:"created_at"`
	ExpiresAt time.Time      `db:"expires_at"`
}

// Introspect tells of an access token. [ErrGrant]: it is not, or no longer, good.
func (i *Issuer) Introspect(ctx context.Context, token authz.Secret) (Introspection, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	digest := token.Digest()
	var found Introspection
	err := i.db.GetContext(ctx, &found, `
		SELECT g.app_id, g.user_id, t.scopes, t.created_at, t.expires_at
		FROM keywicket.oauth_access_tokens t
		JOIN keywicket.oauth_grants g ON g.id = t.grant_id
		JOIN keywicket.oauth_apps a ON a.id = g.app_id
		CROSS JOIN `+noFacts+`
		JOIN `+users+` ON u.id = g.user_id
		WHERE t.digest = $1 AND t.expires_at > clock_timestamp() AND NOT `+banned+`
		  AND t.revoked_at IS NULL AND g.revoked_at IS NULL AND a.revoked_at IS NULL`, digest[:])
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Introspection{}, ErrGrant
	case err != nil:
		return Introspection{}, fmt.Errorf("introspect the token: %w", err)
	}
	return found, nil
}

// Consenter is a user who is asked for consent, with the workspaces there are to grant.
type Consenter struct {
	ID          string
	Email       string
	MFAEnrolled bool // the user has a second factor
	Workspaces  []Workspace
}

// Consenter finds the user of a session. [ErrNotFound]: there is no such user, the user is banned, or the session was
// revoked.
func (i *Issuer) Consenter(ctx context.Context, s authz.Session) (Consenter, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var c Consenter
	err := i.db.QueryRowContext(ctx, `
		SELECT u.id, email.email, u.mfa_enrolled
		FROM (VALUES ($1::text, $2::text, $3::int8)) AS asked (session, of_user, began) CROSS JOIN `+noFacts+`
		JOIN `+users+` ON u.id = asked.of_user JOIN keywicket.users email ON email.id = u.id
		WHERE NOT `+sessionRevoked+` AND NOT `+banned,
		s.ID, s.UserID, s.Began).Scan(&c.ID, &c.Email, &c.MFAEnrolled)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Consenter{}, refuse(ErrNotFound, "the session's user is no more, or is banned, or the session was revoked")
	case err != nil:
		return Consenter{}, fmt.Errorf("find the session's user: %w", err)
	}
	err = i.db.SelectContext(ctx, &c.Workspaces, `
		SELECT w.id, w.slug, w.name, w.created_at FROM keywicket.members m JOIN keywicket.workspaces w ON w.id = m.workspace_id
		WHERE m.user_id = $1 ORDER BY lower(w.name), w.slug`, c.ID)
	if err != nil {
		return Consenter{}, fmt.Errorf("find the user's workspaces: %w", err)
	}
	return c, nil
}
