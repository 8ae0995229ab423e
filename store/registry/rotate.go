package registry

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

// RotateToken creates a token with the name, owner, scopes and attributes of an active token, and returns it with its key. The old
// token ends after the overlap, or at its expiry if that is earlier. With an overlap of 0, it ends immediately. If the old token
// had a lifetime, the new token gets the same lifetime, from now. The creator of the new token is the user who rotates. The parameter `format` is the token's format. The error is
// [database.ErrNotFound] if the token does not exist.
func (r *Registry) RotateToken(ctx context.Context, id string, format authz.CredentialFormat, overlap time.Duration) (Token, authz.Secret, error) {
	old, err := r.Token(ctx, id)
	if err != nil {
		return Token{}, "", err
	}
	if format, err = format.Complete(); err != nil {
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "the credential format's %v", err)
	}
	key := format.NewKey()
	digest := key.Digest()
	var created string
	// One statement, so that the new token exists exactly if the old one ends.
	err = r.db.GetContext(ctx, &created, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id, expires_at, attributes)
		SELECT api, kind, environment, $3, $4, name, scopes, workspace_id, user_id, clock_timestamp() + lifetime, attributes
		FROM keywicket.shorten_token($1, $2 * interval '1 second') AS lifetime CROSS JOIN keywicket.tokens WHERE id = $1
		RETURNING id`, id, max(0, overlap).Seconds(), format.Visible(key), digest[:])
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if old, err = r.Token(ctx, id); err != nil {
			return Token{}, "", err
		}
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "the token is %s, so it cannot be rotated: create a token", old.Status)
	case err != nil:
		return Token{}, "", database.ConstraintError(err, "rotate the token", map[string]error{"tokens_creator_is_member": errCreatorLeft})
	}
	t, err := r.Token(ctx, created)
	if err == nil {
		err = database.ConfirmRow(t.API == old.API && t.Name == old.Name && t.Prefix == format.Visible(key), "rotate the token")
	}
	if err != nil {
		return Token{}, "", err
	}
	return t, key, nil
}
