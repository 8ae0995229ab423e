package authz_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// The authorizer reports each decision on a valid credential. A refused credential, a public route and an error are no use.
func TestUsesAreCounted(t *testing.T) {
	denyWith := func(code authz.Code, reason authz.Reason) func(authz.Input) (authz.Decision, error) {
		return func(in authz.Input) (authz.Decision, error) {
			if in.Principal == nil {
				return principalsOnly(in)
			}
			return authz.Decision{Code: code, Reason: reason}, nil
		}
	}
	failWithPrincipal := func(in authz.Input) (authz.Decision, error) {
		if in.Principal == nil {
			return principalsOnly(in)
		}
		return authz.Decision{}, errors.New("the policy fails")
	}
	revoked := acme
	revoked.Denial = authz.ReasonRevoked
	for name, c := range map[string]struct {
		found  authz.LookupResult
		err    error
		decide func(authz.Input) (authz.Decision, error)
		key    string
		want   []string
	}{
		"allowed":             {found: acme, decide: principalsOnly, key: validKey, want: []string{"t1 true"}},
		"denied":              {found: acme, decide: denyWith(authz.CodeForbidden, authz.ReasonNoRoute), key: validKey, want: []string{"t1 false"}},
		"denied with a 401":   {found: acme, decide: denyWith(authz.CodeUnauthorized, authz.ReasonRevoked), key: validKey, want: []string{"t1 false"}},
		"revoked":             {found: revoked, decide: principalsOnly, key: validKey},
		"malformed":           {found: acme, decide: principalsOnly, key: "sk_live_"},
		"no database":         {found: acme, err: errors.New("down"), decide: principalsOnly, key: validKey},
		"the policy fails":    {found: acme, decide: failWithPrincipal, key: validKey},
		"an invalid decision": {found: acme, decide: denyWith("", ""), key: validKey},
		"public":              {found: acme, key: validKey, decide: func(authz.Input) (authz.Decision, error) { return authz.Decision{Allow: true}, nil }},
	} {
		var got []string
		config := config()
		config.CountUse = func(p *authz.Principal, allowed bool) { got = append(got, fmt.Sprint(p.ID, " ", allowed)) }
		a := newAuthorizer(t, config, &directory{found: c.found, err: c.err}, &policy{decide: c.decide})
		answer, err := a.Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+c.key)))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the uses are %q, not %q; the answer is %+v, %v", name, got, c.want, answer, err)
		}
	}
}
