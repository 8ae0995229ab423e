// Package explain reports why the sidecar allows or denies a request, and how to get a denied request allowed. It runs the code of a
// check, for a request that no client sent.
package explain

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/explain/envoypath"
	"github.com/keywicket/keywicket/internal/columns"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store/registry"
)

// Request is the request to explain. At most one of TokenID, User and Scopes is set. This field identifies the sender. If none is
// set, the request has no credential.
type Request struct {
	Method string // such as GET
	Path   string // as a client sends it

	TokenID string   // id of the token that the request has; it may be an app's access token
	User    string   // id or email of a user: the request has a session of this user; if the API requires a second factor, the session has a second factor
	Scopes  []string // scopes of a simulated token; if one of them is a user-level scope, the token belongs to a user with the role owner

	Workspace string // id or slug; empty: the request has no workspace header
	API       string // empty: with TokenID, the token's API; with User, the API that accepts sessions; with Scopes, the API that has these scopes; otherwise, the API that has the route
}

// Explanation is a decision, its source, and the fix.
type Explanation struct {
	Allow          bool     `json:"allow"`
	Code           *string  `json:"code"`   // code of the denial; nil: the request is allowed
	Reason         *string  `json:"reason"` // reason of the denial; nil: the request is allowed
	RequiredScopes []string `json:"required_scopes"`
	AnyOf          []string `json:"any_of"`
	Route          *string  `json:"route"`            // method and pattern, such as GET /api/issues; nil: no route matches
	Row            string   `json:"row,omitempty"`    // place of the route in its table: file:line
	Logged         string   `json:"logged,omitempty"` // decision of the log line that is explained, if it differs; see [Explanation.Decision]
	Path           string   `json:"path,omitempty"`   // path that the check gets, if Envoy changes the path of the request
	Header         string   `json:"header,omitempty"` // workspace header of the request: name and value; W means any workspace
	Rule           string   `json:"rule"`             // place of the rule that decided: file:line
	Held           []string `json:"held"`             // scopes of the token
	Missing        []string `json:"missing"`          // required scopes that the token does not have
	Fix            string   `json:"fix,omitempty"`    // the steps that get the request allowed, separated by "; then "
	Widen          string   `json:"widen,omitempty"`  // if Fix only restores a lost access: the steps that grant the missing rights

	// RevokedReason says why the token was revoked: "leaked", or nil if no reason was given or the token is not revoked.
	RevokedReason *string `json:"revoked_reason,omitempty"`
}

// Text returns the explanation as lines of a name and a value.
func (e Explanation) Text() string {
	path := ""
	if e.Path != "" {
		path = e.Path + " (Envoy changes the path)"
	}
	route := "none"
	if e.Route != nil {
		route = fmt.Sprintf("%s (%s)", *e.Route, e.Row)
	}
	decision := e.Decision()
	if e.RevokedReason != nil {
		decision += " (" + *e.RevokedReason + ")"
	}
	var text strings.Builder
	_ = columns.Fields(&text, // a strings.Builder returns no error
		[2]string{"decision", decision},
		[2]string{"logged", e.Logged},
		[2]string{"path", path},
		[2]string{"rule", e.Rule},
		[2]string{"route", route},
		[2]string{"header", e.Header},
		[2]string{"required", strings.Join(e.RequiredScopes, " ")},
		[2]string{"one of", strings.Join(e.AnyOf, " ")},
		[2]string{"held", strings.Join(e.Held, " ")},
		[2]string{"missing", strings.Join(e.Missing, " ")},
		[2]string{"fix", e.Fix},
		[2]string{"widen", e.Widen},
	)
	return text.String()
}

// Decision returns the decision as one text: "allow", or "deny: " with the code and the reason.
func (e Explanation) Decision() string {
	if e.Allow {
		return "allow"
	}
	return "deny: " + *e.Code + ", " + *e.Reason
}

// RequestError is the error for a request that is incomplete, or that matches several APIs.
type RequestError struct{ error }

func (e RequestError) Unwrap() error { return e.error }

// UndefinedError is the error for a request with an API or a scope that the configuration and its policies do not define.
type UndefinedError struct{ error }

func (e UndefinedError) Unwrap() error { return e.error }

// Config is the part of the configuration that decisions depend on.
type Config struct {
	APIs           map[string]authz.API
	DefaultAPI     string   // for scopes that several APIs have; may be empty
	AllowedHeaders []string // request headers that policies may read
	ConfigFile     string   // file that the commands of a fix name with --config; empty: they name no file
}

// Explainer explains requests.
type Explainer struct {
	cfg      Config
	policies *policies.Explainer
	registry *registry.Registry
}

// New returns an explainer. r may be nil: such an explainer explains only requests with simulated tokens or without a credential,
// and does not know the ids of workspaces.
func New(cfg Config, p *policies.Explainer, r *registry.Registry) *Explainer {
	return &Explainer{cfg: cfg, policies: p, registry: r}
}

// Explain runs the request through the code of a check. Three things differ from a real check: the look-up finds the token by
// its id, the rules of the policy are not optimised, and there is no gRPC server. The error is a [RequestError], an
// [UndefinedError], a [database.ErrNotFound] for an unknown token or user, or another error.
func (x *Explainer) Explain(ctx context.Context, r Request) (Explanation, error) {
	senders := 0
	for _, given := range []bool{r.TokenID != "", r.User != "", r.Scopes != nil} {
		if given {
			senders++
		}
	}
	switch {
	case senders > 1:
		return Explanation{}, RequestError{errors.New("give only one of a token's id, a user, and scopes")}
	case (r.TokenID != "" || r.User != "") && x.registry == nil:
		return Explanation{}, errors.New("explain: without a registry, only simulated tokens can be explained")
	}
	if !envoypath.Accepts(r.Method) {
		return refusedByEnvoy("method", "over HTTP/1.1, Envoy does not know the method: use another method, in capitals, such as GET"), nil
	}
	path, refusal := envoypath.Normalize(r.Path)
	if refusal != nil {
		return refusedByEnvoy("path", refusal.Error()+": correct the path"), nil //nolint:nilerr // the refusal is the explanation
	}
	changed := path != r.Path
	r.Path = path
	m, err := x.simulate(ctx, r)
	if err != nil {
		return Explanation{}, err
	}
	if err := m.check(ctx); err != nil {
		return Explanation{}, err
	}
	fix, widen, err := m.fix(ctx)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Allow: m.explanation.Allow, Code: orNull(string(m.explanation.Code)), Reason: orNull(string(m.explanation.Reason)),
		RequiredScopes: orEmpty(m.explanation.RequiredScopes), AnyOf: orEmpty(m.explanation.AnyOf), Route: orNull(m.explanation.Route), Row: m.explanation.Row, Rule: m.explanation.Rule,
		Header: mask.Keys(x.cfg.APIs, m.workspaceHeader()), // the caller may have given a key as the workspace by mistake
		Held:   orEmpty(m.heldScopes()), Missing: m.missing(), Fix: fix, Widen: widen,
	}
	if m.explanation.Reason == authz.ReasonRevoked {
		e.RevokedReason = m.token.RevokedReason
	}
	if changed {
		e.Path = x.cfg.maskPath(path)
	}
	return e, nil
}

// maskPath shortens the keys in the segments of a path: the caller may have given a key as an id by mistake.
func (c Config) maskPath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = mask.Keys(c.APIs, s)
	}
	return strings.Join(segments, "/")
}

// refusedByEnvoy returns the explanation of a request with a part that Envoy refuses: Envoy answers, and no rule decides.
func refusedByEnvoy(part, fix string) Explanation {
	return Explanation{
		Code: orNull("BAD_REQUEST"), Reason: orNull("bad_request"), RequiredScopes: []string{}, AnyOf: []string{}, Held: []string{}, Missing: []string{},
		Rule: "none: Envoy refuses the " + part, Fix: fix,
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
