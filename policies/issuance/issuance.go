// Package issuance decides who may create, rotate and revoke which tokens. The console's pages, the management API and the
// operator's commands all ask this package. The rules depend on the API's table, so policy authors change them with the table.
//
// Nobody can give a token a scope or a lifetime that they do not have, and a token passes on its attributes. The operator's limits apply to everybody.
package issuance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/policies/table"
)

// Rules are the rules of one API.
type Rules struct {
	Table  table.Table
	Limits tokenlimit.Limits
}

// Maker is who creates, rotates or revokes a token.
type Maker struct {
	// Operator means that the maker has the operator's login. Only the limits on lifetimes apply.
	Operator bool
	// Kind is the kind of the maker's credential. Scopes are the scopes of this credential. Expires is its expiry; nil if it has no
	// expiry, and always nil for a session, because its user can begin another one.
	Kind    authz.Kind
	Scopes  []string
	Expires *time.Time
	// Role is the role of the credential's user in the workspace; empty for a workspace's token, and outside of workspaces.
	Role string
	// Environment and Attributes are those of the maker's token; empty for a session.
	Environment authz.Environment
	Attributes  authz.Attributes
}

// RefusalError is the reason why a maker may not do something.
type RefusalError struct {
	// Field is the part of the request that is refused: scopes, expires_at, or empty for the whole request.
	Field string
	// Scopes are the refused scopes.
	Scopes []string
	text   string
}

func (r *RefusalError) Error() string { return r.text }

func refuse(field, format string, args ...any) *RefusalError {
	return &RefusalError{Field: field, text: fmt.Sprintf(format, args...)}
}

// ScopesOf returns the scopes that a token of the kind can have, sorted.
func (r Rules) ScopesOf(kind authz.Kind) []string {
	if kind.OfUser() {
		return r.Table.ScopeNames(table.LevelWorkspace, table.LevelUser)
	}
	return r.Table.ScopeNames(table.LevelWorkspace)
}

// Manages reports whether the maker may see, create, rotate and revoke tokens of the kind. The maker's credential needs an override
// scope of the level. For a workspace's tokens, the user's role in the workspace needs it too. For a user's keys, the credential
// must belong to the user. If a level has no override scope, all scopes of this level are necessary.
//
// The access token of an app never manages tokens. A token of the sandbox does not either: it could give access to live data.
func (r Rules) Manages(m Maker, kind authz.Kind) bool {
	switch {
	case m.Operator:
		return true
	case m.Kind == authz.KindOAuthToken, m.Environment == authz.Sandbox:
		return false
	case kind.OfUser():
		return m.Kind.OfUser() && r.hasAll(m.Scopes, table.LevelUser)
	case m.Kind.OfUser() && !r.hasAll(r.Table.Roles[m.Role], table.LevelWorkspace):
		return false
	}
	return r.hasAll(m.Scopes, table.LevelWorkspace)
}

// hasAll reports whether the scopes permit everything at the level.
func (r Rules) hasAll(held []string, level table.Level) bool {
	if len(r.Table.Overrides[level]) == 0 {
		return !slices.ContainsFunc(r.Table.ScopeNames(level), func(scope string) bool { return !r.has(held, scope) })
	}
	return slices.ContainsFunc(held, func(scope string) bool { return r.overrides(scope, level) })
}

// overrides reports whether a scope satisfies every route of the level. A user's override also satisfies routes in workspaces.
func (r Rules) overrides(scope string, level table.Level) bool {
	return r.Table.IsOverride(scope, level) || level == table.LevelWorkspace && r.Table.IsOverride(scope, table.LevelUser)
}

// has reports whether the scopes include a scope, or have an override of its level.
func (r Rules) has(held []string, scope string) bool {
	level, known := r.Table.Scope(scope)
	return known && (r.Table.Includes(held, scope) || slices.ContainsFunc(held, func(h string) bool { return r.overrides(h, level) }))
}

// Grantable returns the scopes that the maker may give to a token of the kind, sorted. It is empty if the maker does not manage
// such tokens.
func (r Rules) Grantable(m Maker, kind authz.Kind) []string {
	if !r.Manages(m, kind) {
		return nil
	}
	return slices.DeleteFunc(r.ScopesOf(kind), func(scope string) bool { return !r.mayGive(m, kind, scope) })
}

// IsOverride reports whether a scope permits everything at a level.
func (r Rules) IsOverride(scope string) bool {
	return r.Table.IsOverride(scope, table.LevelWorkspace) || r.Table.IsOverride(scope, table.LevelUser)
}

func (r Rules) mayGive(m Maker, kind authz.Kind, scope string) bool {
	if m.Operator {
		return true
	}
	if !r.has(m.Scopes, scope) {
		return false
	}
	if kind.OfUser() { // when the key is used, the user's role at that time limits it
		return true
	}
	if m.Kind.OfUser() && !r.has(r.Table.Roles[m.Role], scope) {
		return false
	}
	roles := r.Limits.OverrideRoles
	return len(roles) == 0 || !r.Table.IsOverride(scope, table.LevelWorkspace) || slices.Contains(roles, m.Role)
}

// New is a token to create.
type New struct {
	Kind    authz.Kind
	Scopes  []string
	Expires *time.Time // nil: no expiry
	// Attributes are data that rules of policy authors can read.
	Attributes authz.Attributes
}

// Check returns nil if the maker may create the token now. Otherwise, the error is a [RefusalError].
func (r Rules) Check(m Maker, n New, now time.Time) error {
	if !r.Manages(m, n.Kind) {
		return refuse("", "you may not create this kind of token")
	}
	if err := r.checkScopes(m, n); err != nil {
		return err
	}
	// A rule may read the attributes as a limit of the token.
	if m.Attributes.JSON() != "{}" && n.Attributes.JSON() != m.Attributes.JSON() {
		return refuse("", "a token with attributes can create only tokens with the same attributes")
	}
	return r.checkExpiry(m, n, now)
}

func (r Rules) checkScopes(m Maker, n New) error {
	valid := r.ScopesOf(n.Kind)
	grantable := r.Grantable(m, n.Kind)
	var unknown, missing []string
	for _, scope := range n.Scopes {
		switch {
		case !slices.Contains(valid, scope):
			unknown = append(unknown, scope)
		case !slices.Contains(grantable, scope):
			missing = append(missing, scope)
		}
	}
	switch {
	case len(unknown) > 0:
		refusal := refuse("scopes", "%q is not a scope for this kind of token; scopes are %s", unknown[0], strings.Join(valid, ", "))
		refusal.Scopes = unknown
		return refusal
	case len(missing) > 0:
		refusal := refuse("scopes", "you cannot give the scopes %s, because you do not have them", strings.Join(missing, ", "))
		refusal.Scopes = missing
		return refusal
	}
	return nil
}

func (r Rules) checkExpiry(m Maker, n New, now time.Time) error {
	longest := r.Limits.MaxLifetime
	switch {
	case n.Expires == nil && r.Limits.ExpiryRequired:
		return refuse("expires_at", "an expiry is required")
	case n.Expires == nil && longest > 0:
		return refuse("expires_at", "an expiry is required, at most %s from now", days(longest))
	case n.Expires != nil && !n.Expires.After(now):
		return refuse("expires_at", "the expiry has already passed")
	case n.Expires != nil && longest > 0 && n.Expires.Sub(now) > longest+time.Minute: // clocks differ a little
		return refuse("expires_at", "the lifetime is too long: the expiry must be at most %s from now", days(longest))
	case m.Expires != nil && (n.Expires == nil || n.Expires.After(*m.Expires)):
		return refuse("expires_at", "a token cannot create a token that expires later than itself: it expires at %s", m.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// days formats a duration for people: in days if it is a whole number of days.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// Preset is a named choice of scopes.
type Preset struct {
	Name   string
	Scopes []string
}

// The names of the presets that every API has.
const (
	ReadOnly  = "Read-only"
	ReadWrite = "Read-write"
)

// AccessScopes returns the scopes for read access, or for read and write access (see "Workspace API Keys" in the API document of
// Velocity). The scopes are those that end in :read or :write. Such a token has no administrative rights. So AccessScopes omits
// overrides, and scopes that imply an override.
func (r Rules) AccessScopes(kind authz.Kind, write bool) []string {
	return slices.DeleteFunc(r.ScopesOf(kind), func(scope string) bool {
		isAccess := strings.HasSuffix(scope, ":read") || write && strings.HasSuffix(scope, ":write")
		return !isAccess || r.IsOverride(scope)
	})
}

// Presets returns the presets for tokens of the kind: those of every API, then those of the table. Each has only scopes that the
// maker may give. There is no preset ReadWrite if it would be equal to ReadOnly.
func (r Rules) Presets(m Maker, kind authz.Kind) []Preset {
	grantable := r.Grantable(m, kind)
	presets := []Preset{{ReadOnly, r.AccessScopes(kind, false)}}
	if all := r.AccessScopes(kind, true); len(all) > len(presets[0].Scopes) {
		presets = append(presets, Preset{ReadWrite, all})
	}
	for _, p := range r.Table.Presets {
		presets = append(presets, Preset(p))
	}
	return slices.DeleteFunc(presets, func(p Preset) bool {
		return len(p.Scopes) == 0 || slices.ContainsFunc(p.Scopes, func(scope string) bool { return !slices.Contains(grantable, scope) })
	})
}
