package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/oauthapp"
)

// TokenPair contains the tokens that an app receives. If the error is [ErrReused], only Grant is set.
type TokenPair struct {
	Grant           string // id
	Access, Refresh authz.Secret
	Scopes          []string
	Repeated        bool // the app has used its refresh token before, within the reuse window
}

// Code describes the approval for which a code was issued.
type Code struct {
	Client      string `db:"app_id"`
	RedirectURI string `db:"redirect_uri"`
	Challenge   string `db:"code_challenge"`
}

// Exchange returns tokens for a code. The function check compares the code with the request. If check returns an error, Exchange
// returns the same error, and the code counts as used. The error is [ErrGrant] if the code is unknown, expired, used or revoked.
func (i *Issuer) Exchange(
	ctx context.Context, code authz.Secret, format authz.CredentialFormat, check func(Code) error,
) (TokenPair, error) {
	var issued TokenPair
	digest := code.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		var row struct {
			Code
			grantState
		}
		err = tx.GetContext(ctx, &row, `
			SELECT g.app_id, c.redirect_uri, c.code_challenge, g.id, g.scopes, c.used_at IS NOT NULL AS used,
			       c.expires_at <= clock_timestamp() OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL OR `+lookup.Banned+` AS over
			FROM keywicket.oauth_codes c
			JOIN keywicket.oauth_grants g ON g.id = c.grant_id
			JOIN keywicket.oauth_apps a ON a.id = g.app_id
			CROSS JOIN `+lookup.MissingColumns+`
			JOIN `+lookup.Users+` ON u.id = g.user_id
			WHERE c.digest = $1 FOR UPDATE OF g, c`, digest[:])
		issued.Grant = row.Grant
		if refused, err = row.markUsed(ctx, tx, err, `oauth_codes`, digest); refused != nil || err != nil {
			return refused, err
		}
		if refused = check(row.Code); refused != nil {
			return refused, nil
		}
		issued, err = row.issue(ctx, tx, format, row.Scopes, nil)
		return nil, err
	})
	if err != nil {
		return TokenPair{}, fmt.Errorf("exchange the code: %w", err)
	}
	return issued, refused
}

// grantState is the state of a grant, and of one code or refresh token of this grant.
type grantState struct {
	Grant  string         `db:"id"`
	Scopes pq.StringArray `db:"scopes"`
	Used   bool           `db:"used"`
	Ended  bool           `db:"over"`
}

// markUsed marks the code or token as used. If the code or token was used before, markUsed revokes the grant. The parameter
// `findErr` is the error of the query that found the grant. The caller must commit the transaction even after a refusal.
func (s grantState) markUsed(ctx context.Context, tx *sqlx.Tx, findErr error, table string, digest authz.Digest) (refused, err error) {
	switch {
	case errors.Is(findErr, sql.ErrNoRows):
		return ErrGrant, nil
	case findErr != nil:
		return nil, findErr
	case s.Used:
		_, err := tx.ExecContext(ctx, `
			UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`, s.Grant)
		return ErrReused, err
	case s.Ended:
		return ErrGrant, nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE keywicket.`+table+` SET used_at = clock_timestamp() WHERE digest = $1`, digest[:])
	return nil, err
}

// issue creates an access token with the scopes, and a refresh token. If the parameter parent is not nil, issue stores it as the
// parent of the refresh token.
func (s grantState) issue(
	ctx context.Context, tx *sqlx.Tx, format authz.CredentialFormat, scopes []string, parent []byte,
) (TokenPair, error) {
	issued := TokenPair{Grant: s.Grant, Access: format.NewKey(), Refresh: oauthapp.NewSecret(), Scopes: scopes}
	access, refresh := issued.Access.Digest(), issued.Refresh.Digest()
	_, err := tx.ExecContext(ctx, `
		INSERT INTO keywicket.oauth_access_tokens (digest, grant_id, scopes, expires_at)
		VALUES ($1, $2, $3, clock_timestamp() + $4::float8 * interval '1 second')`,
		access[:], s.Grant, database.NonNilArray(scopes), AccessLifetime.Seconds())
	if err != nil {
		return TokenPair{}, err
	}
	const columns, values = `digest, grant_id, expires_at`, `$1, $2, clock_timestamp() + $3::float8 * interval '1 second'`
	query, args := `(`+columns+`) VALUES (`+values+`)`, []any{refresh[:], s.Grant, RefreshLifetime.Seconds()}
	if parent != nil {
		query, args = `(`+columns+`, parent) VALUES (`+values+`, $4)`, append(args, parent)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO keywicket.oauth_refresh_tokens `+query, args...)
	return issued, err
}

// Revoke revokes a client's token and returns the id of its grant. If the token is a refresh token, Revoke revokes the whole
// grant. If it is an access token, Revoke revokes only this token (RFC 7009, section 2.1). If the token is unknown, Revoke returns
// no error. The error is [ErrGrant] if the token belongs to another client.
func (i *Issuer) Revoke(ctx context.Context, token authz.Secret, client string) (grant string, err error) {
	digest := token.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		for _, revoke := range []struct{ find, statement string }{
			{
				`SELECT g.app_id, g.id, g.id FROM keywicket.oauth_refresh_tokens r JOIN keywicket.oauth_grants g ON g.id = r.grant_id WHERE r.digest = $1`,
				`UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`,
			},
			{
				`SELECT g.app_id, g.id, t.id FROM keywicket.oauth_access_tokens t JOIN keywicket.oauth_grants g ON g.id = t.grant_id WHERE t.digest = $1`,
				`UPDATE keywicket.oauth_access_tokens SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`,
			},
		} {
			var owner, grantID, id string
			switch err := tx.QueryRowContext(ctx, revoke.find, digest[:]).Scan(&owner, &grantID, &id); {
			case errors.Is(err, sql.ErrNoRows):
				continue
			case err != nil:
				return nil, err
			case owner != client:
				return ErrGrant, nil
			}
			grant = grantID
			err := database.ActAs(ctx, tx, database.Actor{Kind: database.ActorApp, ID: client})
			if err == nil {
				_, err = tx.ExecContext(ctx, revoke.statement, id)
			}
			return nil, err
		}
		return nil, nil
	})
	if err != nil {
		return "", fmt.Errorf("revoke the token: %w", err)
	}
	return grant, refused
}

// Introspection describes a valid access token (RFC 7662, section 2.2).
type Introspection struct {
	Client    string         `db:"app_id"`
	User      string         `db:"user_id"`
	Scopes    pq.StringArray `db:"scopes"`
	CreatedAt time.Time      `db:"created_at"`
	ExpiresAt time.Time      `db:"expires_at"`
}

// Introspect describes an access token. The error is [ErrGrant] if the token is unknown, expired or revoked.
func (i *Issuer) Introspect(ctx context.Context, token authz.Secret) (Introspection, error) {
	ctx, cancel := detachedContext(ctx)
	defer cancel()
	digest := token.Digest()
	var found Introspection
	err := i.db.GetContext(ctx, &found, `
		SELECT g.app_id, g.user_id, t.scopes, t.created_at, t.expires_at
		FROM keywicket.oauth_access_tokens t
		JOIN keywicket.oauth_grants g ON g.id = t.grant_id
		JOIN keywicket.oauth_apps a ON a.id = g.app_id
		CROSS JOIN `+lookup.MissingColumns+`
		JOIN `+lookup.Users+` ON u.id = g.user_id
		WHERE t.digest = $1 AND t.expires_at > clock_timestamp() AND NOT `+lookup.Banned+`
		  AND t.revoked_at IS NULL AND g.revoked_at IS NULL AND a.revoked_at IS NULL`, digest[:])
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Introspection{}, ErrGrant
	case err != nil:
		return Introspection{}, fmt.Errorf("introspect the token: %w", err)
	}
	return found, nil
}
