package authz_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// directory records each look-up, and returns the values of its fields `found` and `err`.
type directory struct {
	found   authz.LookupResult
	err     error
	lookups []authz.Lookup
}

func (d *directory) Lookup(_ context.Context, l authz.Lookup) (authz.LookupResult, error) {
	d.lookups = append(d.lookups, l)
	return d.found, d.err
}

// policy records each input, and calls the function in its field `decide` for the decision.
type policy struct {
	decide func(authz.Input) (authz.Decision, error)
	needs  authz.PolicyNeeds
	inputs []authz.Input
}

func (p *policy) Needs(string) authz.PolicyNeeds { return p.needs }

func (p *policy) Decide(_ context.Context, in authz.Input) (authz.Decision, error) {
	p.inputs = append(p.inputs, in)
	return p.decide(in)
}

// principalsOnly is a policy's function decide. It allows each input with a principal. It denies every other input with the reason
// in the input's Denial.
func principalsOnly(in authz.Input) (authz.Decision, error) {
	if in.Principal != nil {
		return authz.Decision{Allow: true, Route: "GET /thing"}, nil
	}
	return authz.Decision{Code: authz.CodeUnauthorized, Reason: in.Denial}, nil
}

const (
	validKey = "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"
	acmeID   = "64f1a2b3c4d5e6f7a8b9c0d1"
)

var acme = authz.LookupResult{
	Principal: authz.Principal{ID: "t1", Kind: authz.KindWorkspaceToken, API: "velaflows", Environment: authz.Live, Scopes: []string{"a"}},
	Workspace: authz.Membership{ID: acmeID, Slug: "acme"},
}

func config() authz.Config {
	return authz.Config{APIs: map[string]authz.API{
		"velaflows": {
			Workspace:   authz.WorkspaceHeader{Header: "X-Workspace-Id", By: authz.ByID, Required: true},
			Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}},
		},
		"velocity": {
			Workspace: authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
			Credentials: []authz.CredentialFormat{
				{Kind: authz.KindWorkspaceKey, Prefix: "vel_"},
				{Kind: authz.KindPersonalKey, Prefix: "vel_u_"},
			},
		},
	}}
}

func newAuthorizer(t *testing.T, c authz.Config, d authz.Directory, p authz.Policy) *authz.Authorizer {
	t.Helper()
	a, err := authz.New(c, d, p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func getRequest(api, path string, header map[string][]string) authz.Request {
	var fields authz.Fields
	for name, values := range header {
		for _, value := range values {
			fields = append(fields, authz.HeaderValue{Name: name, Value: value})
		}
	}
	return authz.Request{API: api, Method: "GET", Path: path, Host: "api.example", Header: fields}
}

func withAuthorization(authorization ...string) map[string][]string {
	return map[string][]string{"authorization": authorization, "x-workspace-id": {acmeID}}
}

func TestPublicRouteIsDecidedBeforeAnyLookup(t *testing.T) {
	d := &directory{err: errors.New("the database is down")}
	p := &policy{decide: func(authz.Input) (authz.Decision, error) { return authz.Decision{Allow: true}, nil }}
	answer, err := newAuthorizer(t, config(), d, p).Check(t.Context(), getRequest("velaflows", "/healthz", withAuthorization("Bearer "+validKey)))
	if err != nil || !answer.Allow || !answer.Public || answer.Principal != nil ||
		answer.WorkspaceHeader != (authz.HeaderValue{Name: "x-workspace-id"}) { // the client's own header must not reach the upstream
		t.Fatalf("got %+v, %v", answer, err)
	}
	if len(d.lookups) != 0 || len(p.inputs) != 1 || p.inputs[0].Denial != authz.ReasonMissing {
		t.Fatalf("%d look-ups, the policy read %+v", len(d.lookups), p.inputs)
	}
}

func TestDenialOfTheDirectoryReachesThePolicy(t *testing.T) {
	for _, denial := range []authz.Reason{authz.ReasonUnknown, authz.ReasonExpired, authz.ReasonRevoked} {
		found := acme
		found.Denial = denial
		p := &policy{decide: principalsOnly}
		answer, err := newAuthorizer(t, config(), &directory{found: found}, p).Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey)))
		if err != nil || answer.Allow || answer.Reason != denial || answer.Principal != nil {
			t.Errorf("%s: got %+v, %v", denial, answer, err)
		}
		if last := p.inputs[len(p.inputs)-1]; last.Principal != nil || last.Workspace != (authz.Workspace{}) {
			t.Errorf("%s: the policy read %+v", denial, last)
		}
	}
}

// After any error, the answer is complete, and the code of the answer is UNAVAILABLE.
func TestErrorIsNeverAnAllow(t *testing.T) {
	boom := errors.New("boom")
	decision := func(d authz.Decision, err error) func(authz.Input) (authz.Decision, error) {
		return func(in authz.Input) (authz.Decision, error) {
			if in.Denial == authz.ReasonMissing {
				return principalsOnly(in)
			}
			return d, err
		}
	}
	for name, c := range map[string]struct {
		api       string
		directory *directory
		decide    func(authz.Input) (authz.Decision, error)
	}{
		"unknown API":                               {"other", &directory{}, principalsOnly},
		"no API":                                    {"", &directory{}, principalsOnly},
		"error of the directory":                    {"velaflows", &directory{err: boom, found: acme}, principalsOnly},
		"error of the policy, with a credential":    {"velaflows", &directory{found: acme}, decision(authz.Decision{Allow: true}, boom)},
		"error of the policy, without a credential": {"velaflows", &directory{found: acme}, func(authz.Input) (authz.Decision, error) { return authz.Decision{Allow: true}, boom }},
		"no decision":                               {"velaflows", &directory{found: acme}, decision(authz.Decision{}, nil)},
		"allow with a code":                         {"velaflows", &directory{found: acme}, decision(authz.Decision{Allow: true, Code: authz.CodeForbidden}, nil)},
		"code with the reason of another code": {"velaflows", &directory{found: acme},
			decision(authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonExpired}, nil)},
		"a scope that is invalid in WWW-Authenticate": {"velaflows", &directory{found: acme},
			decision(authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonMissingScope, RequiredScopes: []string{`a", x="`}}, nil)},
		"unknown reason": {"velaflows", &directory{found: acme},
			decision(authz.Decision{Code: authz.CodeForbidden, Reason: "because"}, nil)},
		"allow of a revoked token": {"velaflows", &directory{found: authz.LookupResult{Denial: authz.ReasonRevoked}},
			decision(authz.Decision{Allow: true}, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthorizer(t, config(), c.directory, &policy{decide: c.decide})
			answer, err := a.Check(t.Context(), getRequest(c.api, "/thing", withAuthorization("Bearer "+validKey)))
			if err == nil || answer.Allow || answer.Public || answer.Code != authz.CodeUnavailable ||
				answer.Reason != authz.ReasonUnavailable || answer.ID == "" {
				t.Fatalf("got %+v, %v", answer, err)
			}
			if strings.Contains(err.Error(), validKey) {
				t.Fatalf("the error contains the key: %v", err)
			}
		})
	}
}

func TestDefaultAPIServesRequestsWithoutAnAPI(t *testing.T) {
	c := config()
	c.DefaultAPI = "velaflows"
	answer, err := newAuthorizer(t, c, &directory{found: acme}, &policy{decide: principalsOnly}).Check(t.Context(), getRequest("", "/thing", withAuthorization("Bearer "+validKey)))
	if err != nil || !answer.Allow || answer.API != "velaflows" {
		t.Fatalf("got %+v, %v", answer, err)
	}
}

// The input contains only the headers in AllowedHeaders. It never contains the credential or the cookie.
func TestInputHasAllowedHeadersOnly(t *testing.T) {
	c := config()
	c.AllowedHeaders = []string{"X-Region"}
	p := &policy{decide: principalsOnly, needs: authz.PolicyNeeds{Query: true, Header: true}}
	r := getRequest("velaflows", "/thing/7?q=1&q=2&access_token="+validKey+"?x", map[string][]string{
		"authorization": {"Bearer " + validKey}, "cookie": {"c=1"}, "x-region": {"eu", "us"}, "x-other": {"1"},
	})
	r.Context = authz.Fields{{Name: "api", Value: "velaflows"}, {Name: "tier", Value: "gold"}}
	if _, err := newAuthorizer(t, c, &directory{found: acme}, p).Check(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	in := p.inputs[len(p.inputs)-1]
	if in.Path != "/thing/7" || !slices.Equal(in.Segments(), []string{"thing", "7"}) || in.Host != "api.example" || !slices.Equal(in.Context, r.Context) {
		t.Errorf("got %+v", in)
	}
	if !slices.Equal(in.Query["q"], []string{"1", "2"}) {
		t.Errorf("query %v", in.Query)
	}
	if len(in.Header) != 1 || !slices.Equal(in.Header["x-region"], []string{"eu", "us"}) {
		t.Errorf("headers %v", in.Header)
	}
}

func TestRequestWithTwoHostsMatchesNoRoute(t *testing.T) {
	for host, segments := range map[string][]string{"API.Example": {"thing"}, "api.example,evil.example": nil} {
		p := &policy{decide: principalsOnly}
		r := getRequest("velaflows", "/thing", nil)
		r.Host = host
		if _, err := newAuthorizer(t, config(), &directory{found: acme}, p).Check(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if in := p.inputs[0]; in.Host != strings.ToLower(host) || !slices.Equal(in.Segments(), segments) {
			t.Errorf("%s: got %q, %q", host, in.Host, in.Segments())
		}
	}
}

func TestEveryAnswerHasItsOwnID(t *testing.T) {
	a := newAuthorizer(t, config(), &directory{found: acme}, &policy{decide: principalsOnly})
	seen := make(map[string]bool)
	for range 100 {
		answer, err := a.Check(t.Context(), getRequest("velaflows", "/thing", nil))
		if err != nil || len(answer.ID) != 26 || seen[answer.ID] {
			t.Fatalf("got %+v, %v", answer, err)
		}
		seen[answer.ID] = true
	}
}

func TestInvalidConfigurationIsRefused(t *testing.T) {
	velaflows := func(change func(*authz.API)) func(*authz.Config) {
		return func(c *authz.Config) {
			api := c.APIs["velaflows"]
			api.Credentials = slices.Clone(api.Credentials)
			change(&api)
			c.APIs["velaflows"] = api
		}
	}
	for want, change := range map[string]func(*authz.Config){
		"apis: none is configured": func(c *authz.Config) { c.APIs = nil },
		`default_api: "nope" is not one of the configured APIs: velaflows`:                 func(c *authz.Config) { c.DefaultAPI = "nope" },
		`allowed_headers: "authorization" is not a valid header name, or is a header that`: func(c *authz.Config) { c.AllowedHeaders = []string{"Authorization"} },
		`allowed_headers: "cookie" is not a valid header name`:                             func(c *authz.Config) { c.AllowedHeaders = []string{"cookie"} },
		`allowed_headers: "" is not a valid header name`:                                   func(c *authz.Config) { c.AllowedHeaders = []string{""} },
		`allowed_headers: "x zoo" is not a valid header name`:                              func(c *authz.Config) { c.AllowedHeaders = []string{"x zoo"} },
		`apis.velaflows.workspace.header: "authorization" is not`:                          velaflows(func(a *authz.API) { a.Workspace.Header = "Authorization" }),
		`apis.velaflows.workspace.header: "x zoo" is not`:                                  velaflows(func(a *authz.API) { a.Workspace.Header = "x zoo" }),
		`apis.velaflows.workspace.header: "x-keywicket-api" is not`:                        velaflows(func(a *authz.API) { a.Workspace.Header = "x-keywicket-api" }),
		"apis.velaflows.workspace.header: set":                                             velaflows(func(a *authz.API) { a.Workspace.Header = "" }),
		`apis.velaflows.workspace.by: "name" is neither`:                                   velaflows(func(a *authz.API) { a.Workspace.By = "name" }),
		"apis.velaflows.credentials: none is configured":                                   velaflows(func(a *authz.API) { a.Credentials = nil }),
		`apis.velaflows.credentials[1].prefix: "sk_live_" occurs twice`: velaflows(func(a *authz.API) {
			a.Credentials = append(a.Credentials, authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "sk_live_"})
		}),
		`apis.velaflows.credentials[0].kind: "robot" is not one of`:     velaflows(func(a *authz.API) { a.Credentials[0].Kind = "robot" }),
		`apis.velaflows.credentials[0].prefix: "" is not valid`:         velaflows(func(a *authz.API) { a.Credentials[0].Prefix = "" }),
		`apis.velaflows.credentials[0].environment: "moon"`:             velaflows(func(a *authz.API) { a.Credentials[0].Environment = "moon" }),
		"apis.velaflows.credentials[0].visible_prefix: 17 is not":       velaflows(func(a *authz.API) { a.Credentials[0].VisiblePrefix = 17 }),
		"apis.velaflows.credentials[0].body_length: 37 is less than 38": velaflows(func(a *authz.API) { a.Credentials[0].BodyLength = 37 }),
		"apis.velaflows.credentials[0].body_length: 505 is less":        velaflows(func(a *authz.API) { a.Credentials[0].BodyLength = 505 }),
	} {
		c := config()
		change(&c)
		if _, err := authz.New(c, &directory{}, &policy{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
