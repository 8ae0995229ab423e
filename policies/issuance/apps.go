package issuance

import (
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth/redirecturi"
	"github.com/keywicket/keywicket/policies/table"
)

// App is an OAuth app to register.
type App struct {
	RedirectURIs []string
	Scopes       []string // the scopes of an authorization request without a scope
	Development  bool     // the app is in development
}

// ManagesApps reports whether the maker may manage the account of their user: the apps that the user registered, and the apps that
// the user has authorized. The maker's credential must belong to the user, and needs an override scope of the user level, as for the
// user's keys. The access token of an app never manages apps.
func (r Rules) ManagesApps(m Maker) bool { return r.Manages(m, authz.KindPersonalKey) }

// CheckApp returns nil if the maker may register the app. Otherwise, the error is a [RefusalError]. Its field is redirect_uris, scopes, or
// empty for the whole request.
func (r Rules) CheckApp(m Maker, a App) error {
	if !r.ManagesApps(m) {
		return refuse("", "you may not register apps")
	}
	if err := redirecturi.CheckAll(a.RedirectURIs, a.Development); err != nil {
		return refuse("redirect_uris", "%v", err)
	}
	valid := slices.Concat(r.Table.AppScopes(table.LevelWorkspace), r.Table.AppScopes(table.LevelUser))
	for _, scope := range a.Scopes {
		if !slices.Contains(valid, scope) {
			refusal := refuse("scopes", "%q is not a scope that an app may request; scopes are %s", scope, strings.Join(valid, ", "))
			refusal.Scopes = []string{scope}
			return refusal
		}
	}
	return nil
}
