package authz_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestInvalidUpstreamHeaderIsRefused(t *testing.T) {
	for _, name := range []string{
		"", "X-Plan", "x plan", "x_plan", "x.plan", ":path", "-plan", strings.Repeat("a", 65),
		"authorization", "cookie", "set-cookie", "proxy-authorization", "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"content-length", "x-keywicket-plan", "x-envoy-plan", "x-forwarded-for", "x-original-url", "x-http-method-override", "x-method-override",
		"x-workspace-slug",
	} {
		api := config().APIs["velocity"]
		api.UpstreamHeaders = []string{"x-plan", name}
		if _, err := api.Complete(); err == nil || !strings.HasPrefix(err.Error(), "upstream_headers[1]: ") {
			t.Errorf("%q: got %v", name, err)
		}
	}
	api := config().APIs["velocity"]
	api.UpstreamHeaders = []string{"x-plan", "x-plan"}
	if _, err := api.Complete(); err == nil || !strings.Contains(err.Error(), "is listed twice") {
		t.Errorf("got %v", err)
	}
}

// setUpstreamHeader sets the only header that the policy of an API may set for the upstream.
func setUpstreamHeader(c authz.Config, api, header string) {
	a := c.APIs[api]
	a.UpstreamHeaders = []string{header}
	c.APIs[api] = a
}

// An upstream may serve several APIs. So a header that the policy of one API may set is removed from requests to the other APIs.
func TestHeaderOfAnotherAPIIsRemoved(t *testing.T) {
	c := config()
	setUpstreamHeader(c, "velocity", "x-plan")
	p := &policy{decide: func(authz.Input) (authz.Decision, error) { return authz.Decision{Allow: true}, nil }}
	got, err := newAuthorizer(t, c, &directory{}, p).Check(t.Context(), getRequest("velaflows", "/", nil))
	if err != nil || !slices.Equal(got.UpstreamHeaders, []authz.HeaderValue{{Name: "x-plan"}}) {
		t.Errorf("got %+v, %v", got.UpstreamHeaders, err)
	}
	setUpstreamHeader(c, "velaflows", c.APIs["velocity"].Workspace.Header)
	if _, err := authz.New(c, &directory{}, p); err == nil || !strings.Contains(err.Error(), "the workspace header of velocity") {
		t.Errorf("got %v", err)
	}
}

func TestPublicRouteHasUpstreamHeaders(t *testing.T) {
	c := config()
	setUpstreamHeader(c, "velocity", "x-plan")
	p := &policy{decide: func(authz.Input) (authz.Decision, error) {
		return authz.Decision{Allow: true, Headers: map[string]string{"x-plan": "none"}}, nil
	}}
	got, err := newAuthorizer(t, c, &directory{}, p).Check(t.Context(), getRequest("velocity", "/", nil))
	if err != nil || !got.Public || !slices.Equal(got.UpstreamHeaders, []authz.HeaderValue{{Name: "x-plan", Value: "none"}}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if !maps.Equal(got.Headers, map[string]string{"x-plan": "none"}) {
		t.Errorf("got %v", got.Headers)
	}
}
