package authz

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz/clientcert"
	"github.com/keywicket/keywicket/authz/header"
	"github.com/keywicket/keywicket/authz/target"
)

// Directory stores the credentials, the workspaces and their members (the policy information point, PIP).
type Directory interface {
	// Lookup returns the principal of a credential, and the workspace in which the principal may act. For a credential that is
	// unknown, expired or revoked, Lookup returns a result with a denial, not an error. An error means that the directory cannot
	// answer.
	Lookup(ctx context.Context, l Lookup) (LookupResult, error)
}

// Policy makes the decisions (the rules of the policy decision point, PDP).
type Policy interface {
	// Needs returns which parts of a request the policy of an API needs. Every check calls Needs.
	Needs(api string) PolicyNeeds
	// Decide returns the decision for an input. Several goroutines may call Decide concurrently. Decide must not retain the input.
	// An error means that there is no decision, and never leads to an allow. Callers must not modify a decision, because several
	// callers may get the same decision.
	Decide(ctx context.Context, in Input) (Decision, error)
}

// PolicyNeeds describes which parts of a request a policy needs.
type PolicyNeeds struct {
	// Parameters lists the special characters that a path parameter may contain.
	Parameters target.Parameters
	// Query means that decisions depend on the parsed query. Other parsers may read some queries differently. If Query is set, a
	// request with such a query matches no route.
	Query bool
	// Header means that decisions depend on headers. Time means that decisions depend on the time. Source means that decisions
	// depend on the source of the request.
	Header, Time, Source bool
	// Certificate means that decisions depend on the client's certificate. If Certificate is set, a certificate that cannot be
	// parsed is an error.
	Certificate bool
}

// Config configures an Authorizer.
type Config struct {
	// APIs are the APIs by name. At least one is required.
	APIs map[string]API
	// DefaultAPI is the API of requests for which Envoy's configuration sets no API. DefaultAPI is not used if any API has hosts.
	// If no API has hosts and DefaultAPI is empty, such a request is an error.
	DefaultAPI string
	// AllowedHeaders are the request headers that policies may read. Letter case does not matter. Default: none.
	AllowedHeaders []string
	// ResourceMetadata maps names of APIs to the URLs of their OAuth 2.0 metadata (RFC 9728). The URL becomes a part of an answer, for
	// the challenge of a denial. Callers must make sure that it needs no escapes in a quoted string. Default: none.
	ResourceMetadata map[string]string
	// Sessions verifies session JWTs. Sessions is required if an API accepts session JWTs.
	Sessions Sessions
	// CountUse is called for each decision on a valid credential. It must not retain the principal. Default: uses are not counted.
	CountUse func(p *Principal, allowed bool)
	// Now returns the time that policies read. Default: time.Now.
	Now func() time.Time
}

// Authorizer answers checks. It is safe for concurrent use.
type Authorizer struct {
	apis            map[string]*API
	defaultAPI      string
	hosts           target.Hosts
	allowedHeaders  []string // request headers that policies may read
	upstreamHeaders []string // the upstream_headers of all APIs together
	sessions        Sessions
	countUse        func(p *Principal, allowed bool)
	now             func() time.Time
	directory       Directory
	policy          Policy
}

// New validates the configuration, fills its defaults, and returns an Authorizer.
func New(c Config, d Directory, p Policy) (*Authorizer, error) {
	if len(c.APIs) == 0 {
		return nil, fmt.Errorf("apis: none is configured")
	}
	a := &Authorizer{
		apis: make(map[string]*API, len(c.APIs)), defaultAPI: c.DefaultAPI, sessions: c.Sessions, countUse: c.CountUse, now: c.Now,
		directory: d, policy: p,
	}
	if a.now == nil {
		a.now = time.Now
	}
	hosts := make(map[string][]string, len(c.APIs))
	for _, name := range slices.Sorted(maps.Keys(c.APIs)) {
		api, err := c.APIs[name].Complete()
		if err != nil {
			return nil, fmt.Errorf("apis.%s.%w", name, err)
		}
		if api.Session.enabled() && c.Sessions == nil {
			return nil, fmt.Errorf("apis.%s.session: no verifier of sessions is configured", name)
		}
		api.name, api.resourceMetadata = name, c.ResourceMetadata[name]
		a.apis[name] = &api
		hosts[name] = api.Hosts
		a.upstreamHeaders = append(a.upstreamHeaders, api.UpstreamHeaders...)
	}
	slices.Sort(a.upstreamHeaders)
	a.upstreamHeaders = slices.Compact(a.upstreamHeaders)
	for name, api := range a.apis {
		if slices.Contains(a.upstreamHeaders, api.Workspace.Header) {
			return nil, fmt.Errorf("apis: upstream_headers must not list %s: it is the workspace header of %s, and the sidecar sets this header", api.Workspace.Header, name)
		}
	}
	var err error
	if a.hosts, err = target.NewHosts(hosts); err != nil {
		return nil, err
	}
	if _, ok := a.apis[c.DefaultAPI]; !ok && c.DefaultAPI != "" {
		return nil, fmt.Errorf("default_api: %q is not one of the configured APIs: %s", c.DefaultAPI, a.names())
	}
	for _, h := range c.AllowedHeaders {
		h = strings.ToLower(h)
		if !header.MayRead(h) {
			return nil, fmt.Errorf("allowed_headers: %q is not a valid header name, or is a header that policies may not read", h)
		}
		a.allowedHeaders = append(a.allowedHeaders, h)
	}
	return a, nil
}

// Check decides one request. It always returns a complete answer. If Check returns an error, the code of the answer is UNAVAILABLE.
// The error is the cause: callers must log the error, and never send it to the client.
func (a *Authorizer) Check(ctx context.Context, r Request) (Answer, error) {
	answer := Answer{ID: NewID()}
	if err := a.check(ctx, r, &answer); err != nil {
		answer.Decision = Unavailable
		answer.Public = false
		answer.WorkspaceHeader.Value = ""
		return answer, err
	}
	answer.addDeclared(a.apis[answer.API], a.upstreamHeaders)
	if a.countUse != nil && answer.Principal != nil {
		a.countUse(answer.Principal, answer.Allow)
	}
	return answer, nil
}

// addDeclared adds to the answer what the configuration declares. A denial gets its status, message and retry time. An allow gets
// the upstream headers of all APIs, because an upstream may serve several APIs. Otherwise, a client of one API could send a forged
// header of another API to this upstream.
func (answer *Answer) addDeclared(api *API, upstreamHeaders []string) {
	if d, ok := api.denial(answer.Code, answer.Reason); ok {
		answer.Status, answer.Message = d.Status, d.Message
		answer.RetryAfter = cmp.Or(answer.RetryAfter, int(d.RetryAfter.Seconds()))
	}
	if answer.Allow {
		for _, name := range upstreamHeaders {
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
	answer.API, answer.WorkspaceHeader.Name, answer.ResourceMetadata = name, api.Workspace.Header, api.resourceMetadata
	in, err := a.input(name, &r)
	if err != nil {
		return err
	}

	// The first decision is for a request without a credential. An allow means that the route is public: no look-up follows, even
	// if the request has an invalid credential.
	in.Denial = ReasonMissing
	anonymous, err := a.decide(ctx, in)
	if err != nil {
		return err
	}
	if anonymous.Allow {
		answer.Decision, answer.Public = anonymous, true
		return nil
	}

	credential, denial := api.credential(r.Header, in.Path)
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
		return fmt.Errorf("the policy allows a request with a refused credential (reason %s), but denies a request without a credential", denial)
	}
	return err
}

// decide returns the decision of the policy, or an error if the decision is invalid.
func (a *Authorizer) decide(ctx context.Context, in Input) (Decision, error) {
	d, err := a.policy.Decide(ctx, in)
	if err != nil {
		return Decision{}, fmt.Errorf("evaluate the policy: %w", err)
	}
	if err := d.validate(a.apis[in.API]); err != nil {
		return Decision{}, fmt.Errorf("the policy's decision is invalid: %w", err)
	}
	return d, nil
}

// apiOf returns the API of a request. If Envoy's configuration sets an API, this API is used. If this API has hosts, the request's
// host must be one of them. If Envoy's configuration sets no API and any API has hosts, the request's host selects the API. The
// default API is used only if no API has hosts.
func (a *Authorizer) apiOf(r Request) (*API, error) {
	if r.API != "" {
		api, ok := a.apis[r.API]
		switch {
		case !ok:
			return nil, fmt.Errorf("the request names the API %q, which is not configured: the configured APIs are %s", r.API, a.names())
		case len(api.Hosts) > 0 && a.hosts.Find(r.Host) != r.API:
			return nil, fmt.Errorf("the request names the API %q, but apis.%[1]s.hosts does not list the host %.100[2]q", r.API, r.Host)
		}
		return api, nil
	}
	if len(a.hosts) > 0 {
		name := a.hosts.Find(r.Host)
		if name == "" {
			return nil, fmt.Errorf("no API has the host %.100q of the request: add this host to apis.NAME.hosts", r.Host)
		}
		return a.apis[name], nil
	}
	if a.defaultAPI == "" {
		return nil, fmt.Errorf("the request names no API: set default_api to one of %s, or set apis.NAME.hosts, or set the context extension \"api\" in Envoy",
			a.names())
	}
	return a.apis[a.defaultAPI], nil
}

// input returns the parts of the request that the policy reads. Parts that the policy does not need stay empty.
func (a *Authorizer) input(api string, r *Request) (Input, error) {
	path, query, _ := strings.Cut(r.Path, "?")
	needs := a.policy.Needs(api)
	in := Input{API: api, Method: r.Method, RawQuery: query, Host: strings.ToLower(r.Host), Context: r.Context}
	if needs.Time {
		in.Time = a.now()
	}
	if needs.Source {
		in.Source = Source{Address: clientAddress(r.Source.Address), Principal: r.Source.Principal}
	}
	ambiguous := false
	if needs.Query {
		in.Query, ambiguous = target.ParseQuery(query)
	}
	if needs.Certificate && r.Source.Certificate != "" {
		var err error
		if in.Source.Certificate, err = clientcert.Parse(r.Source.Certificate); err != nil {
			return in, fmt.Errorf("read the client's certificate: %w", err)
		}
	}
	// Envoy joins two Host headers with a comma. The request could be for either host, so the request must match no route.
	if !ambiguous && !strings.Contains(in.Host, ",") {
		in.Path = target.DecodePath(path, needs.Parameters)
	}
	if needs.Header {
		in.Header = make(map[string][]string, len(a.allowedHeaders))
		for _, h := range a.allowedHeaders {
			if values := r.Header.Values(h); values != nil {
				in.Header[h] = values
			}
		}
	}
	return in, nil
}

// names returns the names of the APIs, for error messages.
func (a *Authorizer) names() string {
	return strings.Join(slices.Sorted(maps.Keys(a.apis)), ", ")
}
