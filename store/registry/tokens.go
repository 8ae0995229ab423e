package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/attributes"
	"github.com/keywicket/keywicket/store/database"
)

// Status is the status of a token, an app or a grant. The database's clock decides whether a token or grant has expired. If an
// object is both revoked and expired, its status is Revoked.
type Status string

// The values of Status.
const (
	Active  Status = "active"
	Expired Status = "expired"
	Revoked Status = "revoked"
)

// Token is a token without its digest. The key itself is not stored.
type Token struct {
	ID          string            `db:"id" json:"id"`
	Prefix      string            `db:"visible_prefix" json:"prefix"` // the part of the key that people may see
	Name        string            `db:"name" json:"name"`
	API         string            `db:"api" json:"api"`
	Kind        authz.Kind        `db:"kind" json:"kind"`
	Environment authz.Environment `db:"environment" json:"environment"`
	Scopes      pq.StringArray    `db:"scopes" json:"scopes"`
	WorkspaceID *string           `db:"workspace_id" json:"workspace_id"` // nil if the token belongs to a user
	UserID      *string           `db:"user_id" json:"user_id"`           // nil if the token belongs to a workspace
	CreatedAt   time.Time         `db:"created_at" json:"created_at"`
	ExpiresAt   *time.Time        `db:"expires_at" json:"expires_at"`     // nil if the token does not expire
	LastUsedAt  *time.Time        `db:"last_used_at" json:"last_used_at"` // at most two minutes too early; nil if never used
	RevokedAt   *time.Time        `db:"revoked_at" json:"revoked_at"`
	// RevokedReason is "leaked", or nil if no reason was given or the token is not revoked.
	RevokedReason *string          `db:"revoked_reason" json:"revoked_reason"`
	Status        Status           `db:"status" json:"status"`
	Attributes    authz.Attributes `db:"attributes" json:"attributes"` // data that policies can read
	CreatedBy     *string          `db:"created_by" json:"created_by"` // the user who created the token; nil if keywicket knows nobody
	// CreatorLeft reports whether the token belongs to a workspace, and its creator is not a member of this workspace.
	CreatorLeft bool `db:"creator_left" json:"creator_left"`
}

// NewToken describes the token to create.
type NewToken struct {
	// Format is one of the API's credential formats.
	Format authz.CredentialFormat
	API    string
	Name   string
	// Scopes have the same spelling as in the API's catalogue of scopes. This package does not know the catalogue, so the caller
	// must check the scopes.
	Scopes []string
	// The owner is either a Workspace or a User. Format.Kind decides which of the two fields is set, and the other field is empty.
	Workspace, User string
	// ExpiresIn or ExpiresAt limits the token's lifetime. If neither is set, the token does not expire.
	ExpiresIn *time.Duration
	ExpiresAt *time.Time
	// Key is an existing key that a product has issued before. If Key is empty, CreateToken generates a key.
	Key authz.Secret
	// Attributes are data that policies can read.
	Attributes authz.Attributes
}

// CreateToken creates a token and returns it with its key. The token is valid immediately. The database stores only the key's
// digest, so the key cannot be shown again.
func (r *Registry) CreateToken(ctx context.Context, n NewToken) (Token, authz.Secret, error) {
	format, err := n.Format.Complete()
	if err != nil {
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "the credential format's %v", err)
	}
	n.Format = format
	owner, err := r.owner(ctx, n)
	if err != nil {
		return Token{}, "", err
	}
	key := n.Key
	switch {
	case n.ExpiresIn != nil && n.ExpiresAt != nil:
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "a token has one expiry: give a duration or a time")
	case key == "":
		key = format.NewKey()
	case !format.Accepts(key):
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "no client can present this key: a key starts with %s, then "+
			"has at least 16 letters, digits or -._~+/, and has 512 characters at most in total", format.Prefix)
	}
	for _, s := range n.Scopes {
		if !authz.ValidScope(s) {
			return Token{}, "", database.NewRefusal(database.ErrInvalid, "the scope %q is empty or has characters that a scope cannot have", s)
		}
	}

	attributesText, err := attributes.JSON(n.Attributes)
	if err != nil {
		return Token{}, "", err
	}
	scopes := pq.StringArray(n.Scopes)
	if scopes == nil {
		scopes = pq.StringArray{}
	}
	var expiresIn sql.NullFloat64
	if n.ExpiresIn != nil {
		expiresIn = sql.NullFloat64{Float64: n.ExpiresIn.Seconds(), Valid: true}
	}
	digest := key.Digest()
	var id string
	err = r.db.GetContext(ctx, &id, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id, user_id,
			expires_at, attributes)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, expiry.at, $12::jsonb
		FROM (SELECT COALESCE($10::timestamptz, clock_timestamp() + $11::float8 * interval '1 second') AS at) AS expiry
		WHERE expiry.at IS NULL OR expiry.at > clock_timestamp()
		RETURNING id`,
		n.API, n.Format.Kind, n.Format.Environment, n.Format.Visible(key), digest[:], n.Name, scopes,
		owner.workspaceID, owner.userID, n.ExpiresAt, expiresIn, attributesText)
	if errors.Is(err, sql.ErrNoRows) {
		return Token{}, "", database.NewRefusal(database.ErrInvalid, "the expiry has already passed according to the database's clock")
	}
	if err != nil {
		return Token{}, "", database.ConstraintError(err, "create the token", map[string]error{
			"tokens_digest_key":        database.NewRefusal(database.ErrExists, "a token with this key already exists"),
			"tokens_name_form":         database.NewRefusal(database.ErrInvalid, "the token's name %q is empty or has control characters", n.Name),
			"tokens_api_form":          database.NewRefusal(database.ErrInvalid, "the API's name %q is invalid: use only letters, digits, _ and -", n.API),
			"tokens_attributes_form":   attributes.ErrRefused,
			"tokens_creator_is_member": errCreatorLeft,
		})
	}
	token, err := r.Token(ctx, id)
	if err == nil {
		err = database.ConfirmRow(token.API == n.API && token.Name == n.Name && token.Prefix == n.Format.Visible(key), "create the token")
	}
	if err != nil {
		return Token{}, "", err
	}
	return token, key, nil
}

type owner struct{ workspaceID, userID *string }

func (r *Registry) owner(ctx context.Context, n NewToken) (owner, error) {
	if n.Format.Kind.OfUser() {
		if n.User == "" || n.Workspace != "" {
			return owner{}, database.NewRefusal(database.ErrInvalid, "a %s (%s) belongs to a user: give a user, and no workspace",
				n.Format.Kind, n.Format.Prefix)
		}
		u, err := r.User(ctx, n.User)
		return owner{userID: &u.ID}, err
	}
	if n.Workspace == "" || n.User != "" {
		return owner{}, database.NewRefusal(database.ErrInvalid, "a %s (%s) belongs to a workspace: give a workspace, and no user",
			n.Format.Kind, n.Format.Prefix)
	}
	w, err := r.Workspace(ctx, n.Workspace)
	return owner{workspaceID: &w.ID}, err
}

// expiresAt is the expiry of the token t; NULL for infinity. If another time is outside the range of Go or JSON, it is the nearest
// time in this range. revokedAt is the time of the token's revocation, in the same range. A restored token has no revokedReason.
const (
	expiresAt = `CASE WHEN t.expires_at < 'infinity' THEN GREATEST(LEAST(t.expires_at, '9999-12-31Z'), '1970-01-01Z') END AS expires_at`
	revokedAt = `CASE WHEN t.revoked_at IS NOT NULL THEN GREATEST(LEAST(t.revoked_at, '9999-12-31Z'), '1970-01-01Z') END AS revoked_at`

	revokedReason = `CASE WHEN t.revoked_at IS NOT NULL THEN t.revoked_reason END AS revoked_reason`
)

// creatorLeft is the condition that the creator of the workspace's token t is not a member of the workspace.
const creatorLeft = `(t.workspace_id IS NOT NULL AND t.created_by IS NOT NULL AND NOT EXISTS (
	SELECT FROM keywicket.members m WHERE m.workspace_id = t.workspace_id AND m.user_id = t.created_by))`

const tokenQuery = `
SELECT t.id, t.visible_prefix, t.name, t.api, t.kind, t.environment, t.scopes, t.workspace_id, t.user_id,
       t.created_at, ` + expiresAt + `, u.last_used_at, ` + revokedAt + `, ` + revokedReason + `, t.attributes, t.created_by, ` + creatorLeft + ` AS creator_left,
       CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE 'active' END AS status
FROM keywicket.tokens t
LEFT JOIN keywicket.token_usage u ON u.token_id = t.id`

// Token returns a token by its id. Errors do not contain the id, because a caller may pass the key by mistake.
func (r *Registry) Token(ctx context.Context, id string) (Token, error) {
	var t Token
	err := r.db.GetContext(ctx, &t, tokenQuery+` WHERE t.id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Token{}, errNoToken
	}
	if err != nil {
		return Token{}, fmt.Errorf("find the token: %w", err)
	}
	return t, database.ConfirmRow(t.ID == id, "find the token")
}

// TokenByDigest returns a token by the digest of its key. The error is [database.ErrNotFound] if the token does not exist.
func (r *Registry) TokenByDigest(ctx context.Context, d authz.Digest) (Token, error) {
	id, err := r.idByDigest(ctx, "tokens", d)
	if err != nil {
		return Token{}, err
	}
	return r.Token(ctx, id)
}

var errNoToken = database.NewRefusal(database.ErrNotFound, "no token has this id: give the token's id from the list, not its key")

// SetTokenAttributes replaces all attributes of a token, even of an expired or revoked one. The error is [database.ErrNotFound] if
// the token does not exist.
func (r *Registry) SetTokenAttributes(ctx context.Context, id string, a authz.Attributes) (Token, error) {
	if err := r.setAttributes(ctx, "tokens", id, a); err != nil {
		return Token{}, err
	}
	return r.Token(ctx, id)
}

// RevokeToken revokes a token permanently. If the token is already revoked, this is not an error. The error is
// [database.ErrNotFound] if the token does not exist.
func (r *Registry) RevokeToken(ctx context.Context, id string) (Token, error) {
	_, err := r.db.ExecContext(ctx, `
		UPDATE keywicket.tokens SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`, id)
	if err != nil {
		return Token{}, fmt.Errorf("revoke the token: %w", err)
	}
	t, err := r.Token(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return t, database.ConfirmRow(t.RevokedAt != nil, "revoke the token")
}
