package explain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/store/registry"
)

// session returns a token that represents a new session of the user.
func (x *Explainer) session(ctx context.Context, c Request) (registry.Token, error) {
	candidates := authz.MatchingAPIs(x.cfg.APIs, c.API, func(a authz.API) bool { return a.Session.Issuer != "" })
	if len(candidates) == 0 { // perhaps only the sidecar's configuration contains the issuer of sessions
		candidates = authz.MatchingAPIs(x.cfg.APIs, c.API, func(a authz.API) bool {
			return slices.ContainsFunc(a.Credentials, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() })
		})
	}
	switch {
	case len(candidates) == 0:
		return registry.Token{}, UndefinedError{errors.New("no matching API has sessions or tokens for users")}
	case len(candidates) > 1:
		return registry.Token{}, RequestError{fmt.Errorf("%s have sessions or tokens for users: give --api", strings.Join(candidates, " and "))}
	}
	u, err := x.registry.User(ctx, c.User)
	return registry.Token{
		ID: u.ID, API: candidates[0], Kind: authz.KindSession, Environment: authz.Live, Scopes: x.cfg.APIs[candidates[0]].Session.Scopes, UserID: &u.ID,
	}, err
}

// apiOf returns the API that has all of the scopes. If several APIs have all of them, it returns the default API, or an error.
func (x *Explainer) apiOf(scopes []string) (string, error) {
	tables := x.policies.Tables()
	names := slices.Sorted(maps.Keys(x.cfg.APIs))
	counts := make(map[string]int) // API → number of the scopes that it has
	var places []string
	verb := " is a scope of "
	for _, scope := range scopes {
		var owners []string
		for _, name := range names {
			if _, ok := tables[name].Scope(scope); ok {
				owners = append(owners, name)
				counts[name]++
			}
		}
		if len(owners) == 0 {
			return "", UndefinedError{fmt.Errorf("no API has the scope %q; %s", scope, scopeLists(names, tables))}
		}
		places = append(places, scope+verb+strings.Join(owners, " and "))
		verb = " of "
	}
	complete := slices.DeleteFunc(names, func(name string) bool { return counts[name] < len(scopes) })
	switch {
	case len(complete) == 1:
		return complete[0], nil
	case slices.Contains(complete, x.cfg.DefaultAPI):
		return x.cfg.DefaultAPI, nil
	}
	advice := "give --api"
	if len(complete) == 0 {
		advice += ", and scopes of that API"
	}
	return "", RequestError{fmt.Errorf("%s: %s", strings.Join(places, ", "), advice)}
}

// apiOfRoute returns the API that has a route for the request. If several APIs or none have such a route, it returns the default
// API, or an error.
func (x *Explainer) apiOfRoute(ctx context.Context, c Request) (string, error) {
	all := slices.Sorted(maps.Keys(x.cfg.APIs))
	var names []string
	for _, name := range all {
		m := simulation{explainer: x.policies, cfg: x.cfg, api: name, method: c.Method, path: c.Path, anonymous: true}
		if err := m.check(ctx); err != nil {
			return "", err
		}
		if m.explanation.Route != "" {
			names = append(names, name)
		}
	}
	candidates := names
	if len(names) == 0 {
		candidates = all
	}
	switch {
	case len(candidates) == 1:
		return candidates[0], nil
	case slices.Contains(candidates, x.cfg.DefaultAPI):
		return x.cfg.DefaultAPI, nil
	case len(names) == 0:
		return "", RequestError{fmt.Errorf("no API has this route: give --api with one of these values: %s", strings.Join(all, ", "))}
	}
	return "", RequestError{fmt.Errorf("%s have this route: give --api", strings.Join(names, " and "))}
}

// scopeLists lists the scopes of each API, for error messages.
func scopeLists(apis []string, tables map[string]table.Table) string {
	var list []string
	for _, name := range apis {
		scopes := tables[name].ScopeNames(table.LevelWorkspace, table.LevelUser)
		list = append(list, name+" has "+strings.Join(scopes, ", "))
	}
	return strings.Join(list, "; ")
}
