package authz

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Directory knows the credentials, the workspaces and their members (the PIP).
type Directory interface {
	// Lookup finds the credential of a check and the workspace it may act in. A credential that is unknown, expired or
	// revoked is a Found with a denial, not an error; an error means that the question could not be answered.
	Lookup(ctx context.Context, l Lookup) (Found, error)
}

// Policy decides (the PDP's rules).
type Policy interface {
	// Reading says how the policy wants the requests of an API to be read. It is called for every check.
	Reading(api string) Reading
	// Decide maps an input to a decision. It is called by many goroutines at once and keeps nothing of the input. An
	// error means that there is no decision; it is never an allow. Callers must not write to the decision: it is shared.
	Decide(ctx context.Context, in Input) (Decision, error)
}

// Reading is how a policy wants requests to be read.
type Reading struct {
	// Parameters are the special characters that a path parameter may hold.
	Parameters Parameters
	// Query says that decisions depend on the parsed query. A query that parsers read differently then matches no route.
	Query bool
	// Header says that decisions depend on headers, Time on the time, Source on where the request came from.
	Header, Time, Source bool
	// Certificate says that decisions depend on the client's certificate. One that cannot be parsed then is an error.
	Certificate bool
}

// Config says what an Authorizer serves.
type Config struct {
	// APIs by name. At least one.
	APIs map[string]API
	// DefaultAPI serves requests that name no API, unless an API has hosts. Empty: such a request is an error.
	DefaultAPI string
	// AllowedHeaders are the request headers, in lower case, that policies may read. Default: none.
	AllowedHeaders []string
	// Sessions verifies the session JWTs of the APIs that take some.
	Sessions Sessions
	// Now is the clock that policies see. Default: time.Now.
	Now func() time.Time
}

// Authorizer answers checks. It is safe for concurrent use.
type Authorizer struct {
	apis      map[string]*API
	fallback  string
	hosts     hosts
	headers   []string // that policies may read
	upstream  []string // that policies may set, of all APIs
	sessions  Sessions
	now       func() time.Time
	directory Directory
	policy    Policy
}

// New checks the configuration and fills its defaults.
func New(c Config, d Directory, p Policy) (*Authorizer, error) {
	if len(c.APIs) == 0 {
		return nil, fmt.Errorf("apis: none is configured")
	}
	a := &Authorizer{
		apis: make(map[string]*API, len(c.APIs)), fallback: c.DefaultAPI, sessions: c.Sessions, now: c.Now, directory: d, policy: p,
	}
	if a.now == nil {
		a.now = time.Now
	}
	for _, name := range slices.Sorted(maps.Keys(c.APIs)) {
		api, err := c.APIs[name].Complete()
		if err != nil {
			return nil, fmt.Errorf("apis.%s.%w", name, err)
		}
		if api.Session.taken() && c.Sessions == nil {
			return nil, fmt.Errorf("apis.%s.session: nothing here verifies sessions", name)
		}
		api.name = name
		a.apis[name] = &api
		a.upstream = append(a.upstream, api.UpstreamHeaders...)
	}
	slices.Sort(a.upstream)
	a.upstream = slices.Compact(a.upstream)
	for name, api := range a.apis {
		if slices.Contains(a.upstream, api.Workspace.Header) {
			return nil, fmt.Errorf("apis: upstream_headers has %s, the workspace header of %s, which the sidecar sets itself", api.Workspace.Header, name)
		}
	}
	var err error
	if a.hosts, err = newHosts(a.apis); err != nil {
		return nil, err
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
	answer := Answer{ID: NewID()}
	err := a.check(ctx, r, &answer)
	if err != nil {
		answer.Decision = Unavailable
		answer.Public = false
		answer.WorkspaceHeader.Value = ""
		return answer, err
	}
	answer.declare(a.apis[answer.API], a.upstream)
	return answer, nil
}

// declare adds what the API's configuration says to the policy's decision. The headers for the upstream are those of all APIs: an
// upstream that serves several must not take one from a client of another API.
func (answer *Answer) declare(api *API, all []string) {
	if d, ok := api.denial(answer.Code, answer.Reason); ok {
		answer.Status, answer.Message = d.Status, d.Message
		answer.RetryAfter = cmp.Or(answer.RetryAfter, int(d.RetryAfter.Seconds()))
	}
	if answer.Allow {
		for _, name := range all {
			answer.UpstreamHeaders = append(answer.UpstreamHeaders, HeaderValue{name, answer.Headers[name]})
		}
	}
}

func (a *Authorizer) check(ctx context.Context, r Request, answer *Answer) error {
	api, err := a.apiOf(r)
	if err != nil {
		return err
	}
	name := api.name
	answer.API, answer.WorkspaceHeader.Name = name, api.Workspace.Header
	in, err := a.input(name, &r)
	if err != nil {
		return err
	}

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

	credential, denial := api.credential(r.Header)
	if denial == ReasonMissing {
		answer.Decision = anonymous
		return nil
	}
	requested := api.requestedWorkspace(r.Header)
	lookup := Lookup{Kind: credential.kind, API: name, Workspace: requested.ref}
	var aal string
	switch {
	case denial != "":
	case credential.kind == KindSession:
		verified, err := a.sessions.Verify(ctx, name, credential.secret)
		if err != nil {
			return fmt.Errorf("verify the session: %w", err)
		}
		lookup.Session, aal, denial, answer.Detail = verified.Session, verified.AAL, verified.Denial, verified.Detail
	default:
		lookup.Digest = credential.secret.Digest()
	}
	if denial == "" {
		found, err := a.directory.Lookup(ctx, lookup)
		if err != nil {
			return fmt.Errorf("look up the credential: %w", err)
		}
		denial, answer.Cache = found.Denial, found.Cache
		isSession := credential.kind == KindSession
		if denial == "" && isSession && api.Session.SecondFactorMissing(aal, found.MFAEnrolled) {
			denial = ReasonSecondFactorRequired
		}
		if denial == "" {
			principal := found.Principal
			if isSession {
				principal.Scopes, principal.AAL = api.Session.Scopes, aal
			}
			in.Principal = &principal
			in.Workspace = requested.grant(found.Workspace, api.Workspace.Required)
		}
	}
	in.Denial = denial
	answer.Principal, answer.Workspace = in.Principal, in.Workspace
	answer.WorkspaceHeader.Value = api.Workspace.reference(in.Workspace)
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
	if err := d.validate(a.apis[in.API]); err != nil {
		return Decision{}, fmt.Errorf("the policy's decision is not one: %w", err)
	}
	return d, nil
}

// apiOf finds the API that a request is for. Envoy's configuration goes first. Where an API has hosts, its requests must
// be for one of them, and the default API serves nothing.
func (a *Authorizer) apiOf(r Request) (*API, error) {
	if r.API != "" {
		api, ok := a.apis[r.API]
		switch {
		case !ok:
			return nil, fmt.Errorf("the request names the API %q, which is none of the configured ones: %s", r.API, a.names())
		case len(api.Hosts) > 0 && a.hosts.find(r.Host) != r.API:
			return nil, fmt.Errorf("the request names the API %q and the host %.100q, which apis.%s.hosts does not have", r.API, r.Host, r.API)
		}
		return api, nil
	}
	if len(a.hosts) > 0 {
		name := a.hosts.find(r.Host)
		if name == "" {
			return nil, fmt.Errorf("the request is for the host %.100q, which no API has: add it to apis.NAME.hosts", r.Host)
		}
		return a.apis[name], nil
	}
	if a.fallback == "" {
		return nil, fmt.Errorf("the request names no API: set default_api to one of %s, or set apis.NAME.hosts, or the context extension api in Envoy",
			a.names())
	}
	return a.apis[a.fallback], nil
}

func (a *Authorizer) input(api string, r *Request) (Input, error) {
	path, query, _ := strings.Cut(r.Path, "?")
	reading := a.policy.Reading(api)
	in := Input{API: api, Method: r.Method, RawQuery: query, Host: strings.ToLower(r.Host), Context: r.Context}
	if reading.Time {
		in.Time = a.now()
	}
	if reading.Source {
		in.Source = Source{Address: clientAddress(r.Source.Address), Principal: r.Source.Principal}
	}
	ambiguous := false
	if reading.Query {
		in.Query, ambiguous = parseQuery(query)
	}
	if reading.Certificate && r.Source.Certificate != "" {
		var err error
		if in.Source.Certificate, err = parseCertificate(r.Source.Certificate); err != nil {
			return in, fmt.Errorf("read the client's certificate: %w", err)
		}
	}
	// Envoy joins two Host headers by a comma. The request might be for either, so it matches no route.
	if !ambiguous && !strings.Contains(in.Host, ",") {
		in.Path = decodePath(path, reading.Parameters)
	}
	if reading.Header {
		in.Header = make(map[string][]string, len(a.headers))
		for _, h := range a.headers {
			if values := r.Header.Values(h); values != nil {
				in.Header[h] = values
			}
		}
	}
	return in, nil
}

func (a *Authorizer) names() string {
	return strings.Join(slices.Sorted(maps.Keys(a.apis)), ", ")
}
