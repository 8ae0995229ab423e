package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/wire"
)

// meshCase is a request with its expected result.
type meshCase struct {
	name string
	wire.Request
	// want maps "MESH PROTOCOL", "MESH", "PROTOCOL" or "" to the expected outcome. The first of these keys that exists applies.
	// Without any of these keys, the expected outcome is "allow".
	want map[string]string
	// identity maps headers to their values. It contains all headers that the function sensitiveHeaders returns for the request
	// at the upstream, except the decision ID.
	identity map[string]string
	// hidden contains headers that the upstream receives in addition to identity if Envoy does not send every header with the
	// check.
	hidden map[string]string
	// upstreamPath and upstreamHost are the path and the host that the upstream receives, if they differ from the path and
	// the host that the client sent.
	upstreamPath, upstreamHost string
}

func (c meshCase) outcome(mesh, protocol string) string {
	return cmp.Or(c.want[mesh+" "+protocol], c.want[mesh], c.want[protocol], c.want[""], "allow")
}

var decisionID = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// sensitiveHeaders returns the header authorization, and the headers that a server may mistake for headers of the sidecar. A
// server may read any punctuation in a name as a hyphen.
func sensitiveHeaders(header map[string][]string) map[string][]string {
	names := slices.Concat([]string{"authorization", "x-workspace-id", "x-workspace-slug"}, overridingHeaders)
	found := map[string][]string{}
	for name, values := range header {
		plain := wire.Punctuation.ReplaceAllString(name, "-")
		if strings.HasPrefix(plain, "x-keywicket-") || slices.Contains(names, plain) {
			found[name] = values
		}
	}
	return found
}

// differences lists how the request that the upstream received differs from the expected request.
func (c meshCase) differences(s wire.Response, sendsEveryHeader bool) (found []string) {
	want := map[string][]string{}
	for name, value := range c.identity {
		want[name] = []string{value}
	}
	if !sendsEveryHeader {
		for name, value := range c.hidden {
			want[name] = []string{value}
		}
	}
	got := sensitiveHeaders(s.Echo.Headers)
	const id = "x-keywicket-decision-id"
	if len(got[id]) != 1 || !decisionID.MatchString(got[id][0]) {
		found = append(found, fmt.Sprintf("%s %q", id, got[id]))
	}
	delete(got, id)
	want[":path"], got[":path"] = []string{cmp.Or(c.upstreamPath, c.Target)}, []string{s.Echo.Path}
	want[":host"], got[":host"] = []string{cmp.Or(c.upstreamHost, c.Host)}, []string{s.Echo.Host}
	upstream := map[string]string{"velaflows": "live", "velocity": "sandbox"}[c.identity["x-keywicket-api"]]
	want[":upstream"], got[":upstream"] = []string{upstream}, []string{s.Echo.Upstream}
	for name := range maps.Keys(want) {
		if !slices.Equal(got[name], want[name]) {
			found = append(found, fmt.Sprintf("%s %q, not %q", name, got[name], want[name]))
		}
		delete(got, name)
	}
	for name, values := range got {
		found = append(found, fmt.Sprintf("%s %q", name, values))
	}
	return found
}

// identityHeaders are the headers that the sidecar sets or removes.
var identityHeaders = []string{
	"x-keywicket-subject", "x-keywicket-kind", "x-keywicket-api", "x-keywicket-workspace-id", "x-keywicket-workspace-slug",
	"x-keywicket-user-id", "x-keywicket-scopes", "x-keywicket-aal", "x-keywicket-environment", "x-keywicket-decision-id",
}

// overridingHeaders override the path or the method of a request in some servers: row 20 of docs/security.md.
var overridingHeaders = []string{
	"x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override", "x-envoy-original-path",
}

const (
	inboxPath   = "/api/v1/inbox/conversations"
	issuesPath  = "/api/issues"
	profilePath = "/api/user" // belongs to no workspace
	publicPath  = "/healthz"  // in both APIs
)

func forged(names ...string) (header [][2]string) {
	for _, name := range names {
		header = append(header, [2]string{name, "forged"})
	}
	return header
}

// check sends the request, and compares the request that the upstream received with the expected request.
func (c meshCase) check(t *testing.T, s *wire.Client, mesh string, sendsEveryHeader bool) {
	t.Helper()
	want := c.outcome(mesh, s.Protocol)
	if got := s.Expect(t, c.name, c.Request, want); got.Outcome == "allow" && want == "allow" {
		for _, difference := range c.differences(got, sendsEveryHeader) {
			t.Errorf("%s: the upstream saw %s", c.name, difference)
		}
	}
}
