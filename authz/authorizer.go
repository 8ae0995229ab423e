package authz

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Directory knows the credentials, the workspaces and their members (the PIP).
type Directory interface {
	// Lookup finds the credential of a check and the workspace it may act in. A credential that is unknown, expired or
	// revoked is a Found with a denial, not an error; an error means that the question could not be answered.
	Lookup(ctx context.Context, l Lookup) (Found, error)
}

// Policy decides (the PDP's rules).
type Policy interface {
	// Decide maps an input to a decision. It is called by many goroutines at once and keeps nothing of the input. An
	// error means that there is no decision; it is never an allow.
	Decide(ctx context.Context, in Input) (Decision, error)
}

// Config says what an Authorizer serves.
type Config struct {
	// APIs by name. At least one.
	APIs map[string]API
	// DefaultAPI serves requests that name none. Empty: such a request is an error.
	DefaultAPI string
	// AllowedHeaders are the request headers, in lower case, that policies may read. Default: none.
	AllowedHeaders []string
	// Sessions verifies the session JWTs of the APIs that take some.
	Sessions Sessions
}

// Authorizer answers checks. It is safe for concurrent use.
type Authorizer struct {
	apis      map[string]API
	fallback  string
	headers   []string
	sessions  Sessions
	directory Directory
	policy    Policy
}

// New checks the configuration and fills its defaults.
func New(c Config, d Directory, p Policy) (*Authorizer, error) {
	if len(c.APIs) == 0 {
		return nil, fmt.Errorf("apis: none is configured")
	}
	a := &Authorizer{apis: make(map[string]API, len(c.APIs)), fallback: c.DefaultAPI, sessions: c.Sessions, directory: d, policy: p}
	for _, name := range slices.Sorted(maps.Keys(c.APIs)) {
		api, err := c.APIs[name].Complete()
		if err != nil {
			return nil, fmt.Errorf("apis.%s.%w", name, err)
		}
		if api.Session.taken() && c.Sessions == nil {
			return nil, fmt.Errorf("apis.%s.session: nothing here verifies sessions", name)
		}
		a.apis[name] = api
	}
	if _, ok := a.apis[c.DefaultAPI]; !ok && c.DefaultAPI != "" {
		return nil, fmt.Errorf("default_api: %q is none of the configured APIs: %s", c.DefaultAPI, a.names())
	}
	for _, h := range c.AllowedHeaders {
		h = strings.ToLower(h)
		if !validHeader(h) {
			return nil, fmt.Errorf("allowed_headers: %q is no header's name, or one that no policy is shown", h)
		}
		a.headers = append(a.headers, h)
	}
	return a, nil
}

// secretHeaders carry credentials.
var secretHeaders = []string{"authorization", "proxy-authorization", "cookie", "set-cookie"}

// Check answers one request. The answer is complete in every case: an error comes with an answer that is
// UNAVAILABLE, and is its cause, to be logged and never shown to the client.
func (a *Authorizer) Check(ctx context.Context, r Request) (Answer, error) {
	answer := Answer{ID: rand.Text()}
	err := a.check(ctx, r, &answer)
	if err != nil {
		answer.Decision = Unavailable
		answer.Public = false
	}
	return answer, err
}

func (a *Authorizer) check(ctx context.Context, r Request, answer *Answer) error {
	name := r.API
	if name == "" {
		name = a.fallback
	}
	api, ok := a.apis[name]
	if !ok {
		return fmt.Errorf("the request names the API %q, which is none of the configured ones: %s", name, a.names())
	}
	answer.API = name
	in := a.input(name, r)

	// What somebody without a credential would be told: an allow means a public route, which is open without any
	// look-up, to a bad credential too.
	in.Denial = ReasonMissing
	anonymous, err := a.decide(ctx, in)
	if err != nil {
		return err
	}
	if anonymous.Allow {
		answer.Decision, answer.Public = anonymous, true
		return nil
	}

	credential, denial := api.credential(r.Header[AuthorizationHeader])
	if denial == ReasonMissing {
		answer.Decision = anonymous
		return nil
	}
	requested := api.requestedWorkspace(r.Header[api.Workspace.Header])
	lookup := Lookup{Kind: credential.kind, API: name, Workspace: requested.ref}
	switch {
	case denial != "":
	case credential.kind == KindSession:
		if lookup.Session, denial, err = a.sessions.Verify(ctx, name, credential.secret); err != nil {
			return fmt.Errorf("verify the session: %w", err)
		}
	default:
		lookup.Digest = credential.secret.Digest()
	}
	if denial == "" {
		found, err := a.directory.Lookup(ctx, lookup)
		if err != nil {
			return fmt.Errorf("look up the credential: %w", err)
		}
		denial, answer.Cache = found.Denial, found.Cache
		if denial == "" {
			principal := found.Principal
			if credential.kind == KindSession {
				principal.Scopes = api.Session.Scopes
			}
			in.Principal = &principal
			in.Workspace = requested.grant(found.Workspace, api.Workspace.Required)
		}
	}
	in.Denial = denial
	answer.Principal, answer.Workspace = in.Principal, in.Workspace
	answer.Decision, err = a.decide(ctx, in)
	if err == nil && answer.Allow && in.Principal == nil {
		return fmt.Errorf("the policy lets in a credential that is %s, but nobody without one", denial)
	}
	return err
}

// decide holds the policy to its contract.
func (a *Authorizer) decide(ctx context.Context, in Input) (Decision, error) {
	d, err := a.policy.Decide(ctx, in)
	if err != nil {
		return Decision{}, fmt.Errorf("evaluate the policy: %w", err)
	}
	if err := d.validate(); err != nil {
		return Decision{}, fmt.Errorf("the policy's decision is not one: %w", err)
	}
	return d, nil
}

func (a *Authorizer) input(api string, r Request) Input {
	path, query, _ := strings.Cut(r.Path, "?")
	in := Input{API: api, Method: r.Method, Path: path, Host: strings.ToLower(r.Host), Context: r.Context}
	// Two Host headers arrive joined by a comma. Whose request it is, is then anybody's guess: it addresses no route.
	if !strings.Contains(in.Host, ",") {
		in.Segments = Segments(path)
	}
	if query != "" {
		in.Query, _ = url.ParseQuery(query) // what is malformed is left out, as net/http does
	}
	for _, h := range a.headers {
		if values, ok := r.Header[h]; ok {
			if in.Header == nil {
				in.Header = make(map[string][]string, len(a.headers))
			}
			in.Header[h] = values
		}
	}
	return in
}

func (a *Authorizer) names() string {
	return strings.Join(slices.Sorted(maps.Keys(a.apis)), ", ")
}
