package authz_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// Two parsers may read a query differently. If the policy reads queries, a request with such a query matches no route. If the
// policy reads no queries, such a query makes no difference.
func TestQueryThatParsersReadDifferently(t *testing.T) {
	for query, ambiguous := range map[string]bool{
		"":                              false,
		"a=1&b=2":                       false,
		"a=1&a=2":                       false,
		"a=x+y%20z":                     false,
		"a=1&&b=&=c&d":                  false,
		"a=1?b=2":                       false,
		"a=%3B%23%26":                   false,
		"a[]=1&a[b]=2":                  false,
		"q=caf%C3%A9":                   false,
		"a=1%0Ab":                       false,
		"admin%00x=1":                   true,
		"%0Aadmin=1":                    true,
		"a=1%00b":                       true,
		"a=\u00e9":                      true,
		"a=1;admin=true":                true,
		"a=1&b;c=2":                     true,
		";":                             true,
		"a=%":                           true,
		"a=%zz&b=2":                     true,
		"a=%4":                          true,
		"%=a":                           true,
		"a=%u0061":                      true,
		"a=%ff":                         true,
		"%ff=a":                         true,
		"a=%ED%A0%80":                   true,
		"a=1#b=2":                       true,
		"a=1 b":                         true,
		"a=1\tb":                        true,
		strings.Repeat("a=1&", 100_000): true, // more pairs than net/url accepts
	} {
		for _, readsQuery := range []bool{false, true} {
			p := &policy{decide: principalsOnly, needs: authz.PolicyNeeds{Query: readsQuery}}
			target := "/thing"
			if query != "" {
				target += "?" + query
			}
			if _, err := newAuthorizer(t, config(), &directory{found: acme}, p).Check(t.Context(), getRequest("velaflows", target, withAuthorization("Bearer "+validKey))); err != nil {
				t.Fatal(err)
			}
			for _, in := range p.inputs { // the decisions without and with the credential
				want, path := []string{"thing"}, "/thing"
				if ambiguous && readsQuery {
					want, path = nil, ""
				}
				if !slices.Equal(in.Segments(), want) || in.Path != path {
					t.Errorf("query %.30q (the policy reads queries: %v): segments %q, path %q", query, readsQuery, in.Segments(), in.Path)
				}
			}
		}
	}
}
