// Package verify says what a token is, and whether a sidecar would accept it now. It recognizes tokens with the code of a check, and
// looks tokens up with the query of a sidecar. Its results and errors contain no part of the token and no hash of it.
package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/bearer"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/oauthapp"
	"github.com/keywicket/keywicket/store/registry"
)

// Result is what keywicket knows about a token. If the database does not have the token, most fields are nil.
type Result struct {
	Good        bool          `json:"good"`   // a sidecar accepts the token now
	Reason      *authz.Reason `json:"reason"` // why the token is not good: the reason of a sidecar's 401
	Explanation string        `json:"explanation,omitempty"`

	Kind        authz.Kind        `json:"kind"`
	API         string            `json:"api"` // empty if several APIs have tokens with this prefix and the database does not have the token
	Environment authz.Environment `json:"environment"`
	Prefix      string            `json:"prefix"` // the configured prefix of all tokens of this kind
	ID          *string           `json:"id"`
	Name        *string           `json:"name"`
	Owner       *string           `json:"owner"` // slug of the workspace, or email of the user
	Scopes      []string          `json:"scopes"`
	WorkspaceID *string           `json:"workspace_id"`
	UserID      *string           `json:"user_id"`
	CreatedAt   *time.Time        `json:"created_at"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	RevokedAt   *time.Time        `json:"revoked_at"`
	LastUsedAt  *time.Time        `json:"last_used_at"` // at most two minutes too early
}

// UndefinedError is the error for an API or a prefix that the configuration does not define.
type UndefinedError struct{ error }

// Token is a token of an operator, with the APIs that recognize it.
type Token struct {
	secret  authz.Secret
	formats map[string]authz.CredentialFormat // by name of the API
	api     string                            // the only API that the token may belong to; empty: any API
}

// Recognize returns the token in the text. It uses only the configuration of the APIs. The parameter `api` is the only API that the
// token may belong to; if it is empty, the token may belong to any API. The error says what else the text is.
func Recognize(apis map[string]authz.API, text, api string) (Token, error) {
	t := Token{secret: authz.Secret(text), formats: map[string]authz.CredentialFormat{}, api: api}
	names := slices.Sorted(maps.Keys(apis))
	if _, ok := apis[api]; !ok && api != "" {
		return Token{}, UndefinedError{fmt.Errorf("no API %q: give --api with one of these values: %s", api, strings.Join(names, ", "))}
	}
	var prefixes []string
	var short string // prefix of the format for which the text is too short or too long
	other := map[authz.Kind]bool{}
	for _, name := range names {
		for _, f := range apis[name].OperatorFormats() {
			if !slices.Contains(prefixes, f.Prefix) {
				prefixes = append(prefixes, f.Prefix)
			}
		}
		format, denial := apis[name].Recognize(t.secret)
		switch {
		case denial == authz.ReasonMalformed:
			short = format.Prefix
		case denial != "":
		case format.Kind == authz.KindSession || format.Kind == authz.KindOAuthToken:
			other[format.Kind] = true
		default:
			t.formats[name] = format
		}
	}
	switch {
	case !bearer.IsB64Token(text):
		return Token{}, errors.New("the text has a character that no token has: give only the token, without quotation marks")
	case len(t.formats) > 0: // of other APIs, the same text may be a session's token
	case other[authz.KindSession] || strings.HasPrefix(text, "eyJ"): // {" in base64
		return Token{}, errors.New("this is a JWT, such as the token of a session, not a token of keywicket: its issuer can verify it")
	case other[authz.KindOAuthToken]:
		return Token{}, errors.New("this is the access token of an OAuth app: find its id in the decision log (subject), and run keywicket explain --token-id ID")
	case short != "":
		return Token{}, fmt.Errorf("this is no whole token: after %s, a token has at least 16 characters, and at most 512 in total: give the whole token", short)
	case oauthapp.IsSecret(text):
		return Token{}, errors.New("this looks like a secret of OAuth (a refresh token, a code, or the secret of an app), not like a token: only its app can use it")
	default:
		return Token{}, UndefinedError{fmt.Errorf("no kind of token starts with this text; prefixes are %s", strings.Join(prefixes, ", "))}
	}
	if _, ok := t.formats[api]; !ok && api != "" {
		return Token{}, t.otherAPI(strings.Join(slices.Sorted(maps.Keys(t.formats)), ", "))
	}
	return t, nil
}

func (t Token) otherAPI(name string) error {
	return fmt.Errorf("the token is for the API %s, not for %s: leave out --api, or give --api %[1]s", name, t.api)
}

// Verify looks the token up. If the database cannot answer, it returns an error, and no result.
func (t Token) Verify(ctx context.Context, r *registry.Registry) (Result, error) {
	row, err := r.TokenByDigest(ctx, t.secret.Digest())
	if errors.Is(err, database.ErrNotFound) {
		return t.unknown(), nil
	}
	if err != nil {
		return Result{}, err
	}
	if t.api != "" && row.API != t.api {
		return Result{}, t.otherAPI(row.API)
	}
	result := Result{
		Kind: row.Kind, API: row.API, Environment: row.Environment, Prefix: t.formats[row.API].Prefix, ID: &row.ID, Name: &row.Name,
		Scopes: row.Scopes, WorkspaceID: row.WorkspaceID, UserID: row.UserID, CreatedAt: &row.CreatedAt, ExpiresAt: row.ExpiresAt,
		RevokedAt: row.RevokedAt, LastUsedAt: row.LastUsedAt,
	}
	explanations := map[authz.Reason]string{
		authz.ReasonUnknown: "the configuration of the API " + row.API + " has no kind of token with this prefix",
		authz.ReasonExpired: "the token has expired",
		authz.ReasonRevoked: "the token was revoked",
	}
	if row.WorkspaceID != nil {
		w, err := r.Workspace(ctx, *row.WorkspaceID)
		if err != nil {
			return Result{}, err
		}
		result.Owner = &w.Slug
	} else {
		u, err := r.User(ctx, *row.UserID)
		if err != nil {
			return Result{}, err
		}
		result.Owner = &u.Email
		if row.RevokedAt == nil && u.BannedUntil != nil {
			explanations[authz.ReasonRevoked] = "its user is banned until " + u.BannedUntil.UTC().Format(time.RFC3339)
		}
	}
	denial := authz.ReasonUnknown // a sidecar looks up only what the token's API recognizes
	if format, ok := t.formats[row.API]; ok {
		found, err := r.LookupDigest(ctx, authz.Lookup{Kind: format.Kind, Digest: t.secret.Digest(), API: row.API})
		if err != nil {
			return Result{}, err
		}
		if err := database.ConfirmRow(found.Denial != "" || found.Principal.ID == row.ID, "verify the token"); err != nil {
			return Result{}, err
		}
		denial = found.Denial
	}
	if result.Good = denial == ""; !result.Good {
		result.Reason, result.Explanation = &denial, explanations[denial]
	}
	return result, nil
}

// unknown returns the result for a token that the database does not have.
func (t Token) unknown() Result {
	reason := authz.ReasonUnknown
	result := Result{Reason: &reason, Explanation: "no token in this database has this key"}
	for name, format := range t.formats {
		if t.api == "" || name == t.api {
			result.Kind, result.Environment, result.Prefix = format.Kind, format.Environment, format.Prefix
			result.API = name
		}
	}
	if t.api == "" && len(t.formats) > 1 {
		result.API = ""
	}
	return result
}
