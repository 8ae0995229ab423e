package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// NewToken describes a token to create.
type NewToken struct {
	Prefix    string // identifies one of the API's formats
	Name      string
	Scopes    []string
	ExpiresAt *time.Time // nil: no expiry
	// IdempotencyKey makes a repeated request harmless; empty: each request creates a token.
	IdempotencyKey string
}

// maxName is the maximum length of a token's name, in characters. The database has no limit.
const maxName = 100

// CreateToken creates a token of the caller's workspace, or a key of the caller. It has the attributes of the caller's own token.
func (s *Settings) CreateToken(ctx context.Context, c Caller, o Owner, n NewToken) (Created[registry.Token], error) {
	format, err := c.format(o, n.Prefix)
	if err != nil {
		return Created[registry.Token]{}, err
	}
	n.Name = strings.TrimSpace(n.Name)
	n.Scopes = slices.Compact(slices.Sorted(slices.Values(n.Scopes)))
	switch {
	case n.Name == "":
		return Created[registry.Token]{}, &FieldError{Field: "name", Text: "Give the token a name."}
	case len([]rune(n.Name)) > maxName:
		return Created[registry.Token]{}, &FieldError{Field: "name", Text: fmt.Sprintf("The name is longer than %d characters.", maxName)}
	case !isVisible(n.Name):
		return Created[registry.Token]{}, &FieldError{Field: "name", Text: "The name has invisible characters."}
	case len(n.Scopes) == 0:
		return Created[registry.Token]{}, &FieldError{Field: "scopes", Text: "Choose at least one scope."}
	}
	if err := c.API.Rules.Check(c.Maker, issuance.New{Kind: format.Kind, Scopes: n.Scopes, Expires: n.ExpiresAt, Attributes: c.Maker.Attributes}, s.now()); err != nil {
		return Created[registry.Token]{}, refusalError(err)
	}
	request := fmt.Sprintf("create token %q %q %q %q %v", c.API.Name, c.Workspace.ID, n.Prefix, n.Name, n.Scopes)
	if n.ExpiresAt != nil {
		request += n.ExpiresAt.UTC().Format(time.RFC3339Nano)
	}
	return s.issue(ctx, c, n.IdempotencyKey, request, func(r *registry.Registry) (registry.Token, authz.Secret, error) {
		return r.CreateToken(ctx, registry.NewToken{
			Format: format, API: c.API.Name, Name: n.Name, Scopes: n.Scopes, ExpiresAt: n.ExpiresAt,
			Workspace: c.workspaceOf(o), User: c.userOf(o), Attributes: c.Maker.Attributes,
		})
	})
}

// isVisible reports whether a text has only graphic characters. Other characters could change how a page shows the text next to it.
func isVisible(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// RotateToken creates a token with the name and the scopes of an active token, which ends after the overlap. The caller must be
// allowed to create such a token.
func (s *Settings) RotateToken(ctx context.Context, c Caller, o Owner, id string, overlap time.Duration, idempotencyKey string) (Created[registry.Token], error) {
	const maxOverlap = 30 * 24 * time.Hour
	if overlap < 0 || overlap > maxOverlap {
		return Created[registry.Token]{}, &FieldError{Field: "overlap", Text: "The overlap must be from 0 to 30 days."}
	}
	old, err := s.Token(ctx, c, o, id)
	if err != nil {
		return Created[registry.Token]{}, err
	}
	format, err := c.formatOf(o, old)
	if err != nil {
		return Created[registry.Token]{}, err
	}
	now := s.now()
	n := issuance.New{Kind: old.Kind, Scopes: old.Scopes, Attributes: old.Attributes}
	if old.ExpiresAt != nil { // the new token gets the same lifetime
		expires := now.Add(old.ExpiresAt.Sub(old.CreatedAt))
		n.Expires = &expires
	}
	if err := c.API.Rules.Check(c.Maker, n, now); err != nil {
		return Created[registry.Token]{}, refusalError(err)
	}
	request := fmt.Sprintf("rotate token %q %q %v", c.API.Name, id, overlap)
	return s.issue(ctx, c, idempotencyKey, request, func(r *registry.Registry) (registry.Token, authz.Secret, error) {
		return r.RotateToken(ctx, id, format, overlap)
	})
}

// issue runs a function that creates a token, in a transaction on behalf of the caller.
func (s *Settings) issue(
	ctx context.Context, c Caller, key, request string, create func(*registry.Registry) (registry.Token, authz.Secret, error),
) (Created[registry.Token], error) {
	return creation[registry.Token]{
		key: key, request: request, create: create,
		id:   func(t registry.Token) string { return t.ID },
		find: func(r *registry.Registry, id string) (registry.Token, error) { return r.Token(ctx, id) },
	}.run(ctx, s.store, c)
}

// Token returns a token of the caller's workspace, or a key of the caller.
func (s *Settings) Token(ctx context.Context, c Caller, o Owner, id string) (registry.Token, error) {
	if err := c.mayManage(o); err != nil {
		return registry.Token{}, err
	}
	t, err := s.store.Registry.Token(ctx, id)
	switch {
	case err != nil && !errors.Is(err, database.ErrNotFound):
		return registry.Token{}, err
	case err != nil || !c.owns(o, t):
		return registry.Token{}, database.NewRefusal(ErrNotFound, "There is no such token here.")
	}
	return t, nil
}

// RevokeToken revokes a token of the caller's workspace, or a key of the caller. If it is already revoked, this is not an error.
func (s *Settings) RevokeToken(ctx context.Context, c Caller, o Owner, id string) (registry.Token, error) {
	t, err := s.Token(ctx, c, o, id)
	if err != nil {
		return t, err
	}
	err = s.store.Registry.Acting(ctx, c.Actor, func(r *registry.Registry, _ *sqlx.Tx) error {
		t, err = r.RevokeToken(ctx, id)
		return err
	})
	return t, err
}

// owns reports whether the token belongs to the caller's workspace, or to the caller.
func (c Caller) owns(o Owner, t registry.Token) bool {
	owner, id := t.WorkspaceID, c.workspaceOf(o)
	if o == OfUser {
		owner, id = t.UserID, c.userOf(o)
	}
	return id != "" && owner != nil && *owner == id && t.API == c.API.Name
}

func (c Caller) workspaceOf(o Owner) string {
	if o == OfWorkspace {
		return c.Workspace.ID
	}
	return ""
}

func (c Caller) userOf(o Owner) string {
	if o == OfUser {
		return c.User.ID
	}
	return ""
}

// mayManage returns an error if the caller may not manage the tokens of this kind of owner.
func (c Caller) mayManage(o Owner) error {
	formats := c.API.FormatsOf(o)
	switch {
	case len(formats) == 0:
		return database.NewRefusal(ErrNotFound, "This API has no such tokens.")
	case o == OfWorkspace && c.Workspace.ID == "", o == OfUser && c.User.ID == "", !c.API.Rules.Manages(c.Maker, formats[0].Kind):
		return database.NewRefusal(ErrForbidden, "You may not manage these tokens.")
	}
	return nil
}

// Manages reports whether the caller may manage the tokens of this kind of owner.
func (c Caller) Manages(o Owner) bool { return c.mayManage(o) == nil }

// format returns the format with the prefix, among those of this kind of owner. An empty prefix selects the only format, or the
// first one.
func (c Caller) format(o Owner, prefix string) (authz.CredentialFormat, error) {
	if err := c.mayManage(o); err != nil {
		return authz.CredentialFormat{}, err
	}
	formats := c.API.FormatsOf(o)
	var prefixes []string
	for _, f := range formats {
		if f.Prefix == prefix || prefix == "" {
			return f, nil
		}
		prefixes = append(prefixes, f.Prefix)
	}
	return authz.CredentialFormat{}, &FieldError{Field: "prefix", Text: "The prefix must be one of " + strings.Join(prefixes, ", ") + "."}
}

// formatOf returns the format of a token's key: the one with the longest prefix that matches.
func (c Caller) formatOf(o Owner, t registry.Token) (authz.CredentialFormat, error) {
	var found authz.CredentialFormat
	for _, f := range c.API.FormatsOf(o) {
		if f.Kind == t.Kind && f.Environment == t.Environment && strings.HasPrefix(t.Prefix, f.Prefix) && len(f.Prefix) > len(found.Prefix) {
			found = f
		}
	}
	if found.Prefix == "" {
		return found, database.NewRefusal(ErrInvalid, "The API no longer creates keys of this form: create a token instead.")
	}
	return found, nil
}

// FieldError is an error in one field of a request. It is an [ErrInvalid].
type FieldError struct{ Field, Text string }

func (e *FieldError) Error() string { return e.Text }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// refusalError converts a refusal of the rules to an error of this package.
func refusalError(err error) error {
	refusal, ok := errors.AsType[*issuance.RefusalError](err)
	if !ok {
		return err
	}
	text := sentence(refusal)
	if refusal.Field == "" {
		return database.NewRefusal(ErrForbidden, "%s", text)
	}
	return &FieldError{Field: refusal.Field, Text: text}
}

// sentence returns the text of an error as a sentence.
func sentence(err error) string { return strings.ToUpper(err.Error()[:1]) + err.Error()[1:] + "." }
