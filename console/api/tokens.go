package api

import (
	"net/http"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
)

// tokens are the operations on the tokens of one kind of owner.
type tokens struct {
	*settings.Settings
	owner settings.Owner
}

// operations returns the operations below the path of the list, and the operation at the path of the scopes.
func (t tokens) operations(list, scopes string) map[string]map[string]operation {
	return map[string]map[string]operation{
		list:                  {http.MethodGet: t.list, http.MethodPost: t.create},
		list + "/{id}":        {http.MethodGet: t.read, http.MethodDelete: t.revoke},
		list + "/{id}/rotate": {http.MethodPost: t.rotate},
		list + "/{id}/usage":  {http.MethodGet: t.usage},
		scopes:                {http.MethodGet: t.scopes},
	}
}

// token is a token without its secret.
type token struct {
	ID          string            `json:"id"`
	Prefix      string            `json:"prefix"`
	Name        string            `json:"name"`
	Kind        authz.Kind        `json:"kind"`
	Environment authz.Environment `json:"environment"`
	Scopes      []string          `json:"scopes"`
	Status      registry.Status   `json:"status"`
	CreatedAt   time.Time         `json:"created_at"`
	CreatedBy   *string           `json:"created_by"` // the id of a user
	CreatorLeft bool              `json:"creator_left"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	LastUsedAt  *time.Time        `json:"last_used_at"`
	RevokedAt   *time.Time        `json:"revoked_at"`
	RevokedFor  *string           `json:"revoked_reason"`
}

func newToken(t registry.Token) token {
	return token{
		ID: t.ID, Prefix: t.Prefix, Name: t.Name, Kind: t.Kind, Environment: t.Environment, Scopes: append([]string{}, t.Scopes...),
		Status: t.Status, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy, CreatorLeft: t.CreatorLeft, ExpiresAt: t.ExpiresAt, LastUsedAt: t.LastUsedAt, RevokedAt: t.RevokedAt, RevokedFor: t.RevokedReason,
	}
}

// createdToken is a new token with its secret.
type createdToken struct {
	token
	Secret *string `json:"token"`
}

func newCreatedToken(c settings.Created[registry.Token]) answer {
	return answer{body: createdToken{newToken(c.Object), orNil(c.Secret.Reveal())}, created: true, repeated: c.Repeated}
}

type newTokenRequest struct {
	Name      string     `json:"name"`
	Scopes    []string   `json:"scopes"`
	ExpiresAt *time.Time `json:"expires_at"`
	Prefix    *string    `json:"prefix"` // nil: the first prefix of the API
}

func (t tokens) create(r *http.Request, c settings.Caller) (answer, error) {
	key, err := idempotencyKey(r)
	if err != nil {
		return answer{}, err
	}
	var n newTokenRequest
	if err := readBody(r, &n); err != nil {
		return answer{}, err
	}
	requested := settings.NewToken{Name: n.Name, Scopes: n.Scopes, ExpiresAt: n.ExpiresAt, IdempotencyKey: key}
	if n.Prefix != nil {
		if requested.Prefix = *n.Prefix; requested.Prefix == "" {
			return answer{}, &settings.FieldError{Field: "prefix", Text: "The prefix is empty."}
		}
	}
	created, err := t.CreateToken(r.Context(), c, t.owner, requested)
	if err != nil {
		return answer{}, err
	}
	return newCreatedToken(created), nil
}

func (t tokens) read(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	found, err := t.Token(r.Context(), c, t.owner, id)
	return answer{body: newToken(found)}, err
}

func (t tokens) revoke(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	revoked, err := t.RevokeToken(r.Context(), c, t.owner, id)
	return answer{body: newToken(revoked)}, err
}

type rotationRequest struct {
	Overlap int64 `json:"overlap"` // seconds
}

func (t tokens) rotate(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return answer{}, err
	}
	var n rotationRequest
	if err := readOptionalBody(r, &n); err != nil {
		return answer{}, err
	}
	const longest = int64(1<<63-1) / int64(time.Second)
	overlap := time.Duration(max(-1, min(n.Overlap, longest))) * time.Second
	created, err := t.RotateToken(r.Context(), c, t.owner, id, overlap, key)
	if err != nil {
		return answer{}, err
	}
	return newCreatedToken(created), nil
}
