package envoy

import (
	"slices"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// An allow removes only the headers that a server may mistake for a header that the sidecar sets or removes.
func TestForgedHeadersAreRemoved(t *testing.T) {
	var header authz.Fields
	send := func(name string) { header = append(header, authz.HeaderValue{Name: name, Value: "evil"}) }
	forgeries := []string{
		"x-keywicket-role", "x-keywicket-", "x-keywicket-subject-", "x-keywicket--subject", "x_keywicket_subject", "x-keywicket_subject",
		"x_keywicket-role", "x.keywicket.subject", "x~keywicket~subject", "x_workspace_slug", "x-workspace_slug", "x.workspace-slug",
		"x_original_url", "x_rewrite_url", "x-http_method_override", "x_http_method", "x_method_override", "x_envoy_original_path",
	}
	for _, name := range slices.Concat(forgeries, []string{
		"accept", "authorization", "content-type", "user-agent", "x-request-id", "x_request_id", "x-keywicketing", "x-forwarded-for",
		"x_workspace_id", "workspace_slug", ":path", "x-keywicket-\x00", "x keywicket subject", "",
	}) {
		send(name)
	}
	answer := allowForAda
	answer.WorkspaceHeader = authz.HeaderValue{Name: "x-workspace-slug", Value: "acme"}
	// A client may send identity headers too. Every allow removes or sets these headers, so forgedHeaders does not return them.
	for _, name := range identityHeaders {
		send(name)
	}
	for _, name := range append(overridingHeaders, "x-workspace-slug") {
		send(name)
	}
	ok := checkedResponse(t, answer, true, header).GetOkResponse()
	slices.Sort(forgeries)
	if got, want := ok.GetHeadersToRemove(), slices.Concat([]string{"x-keywicket-aal"}, overridingHeaders, forgeries); !slices.Equal(got, want) {
		t.Errorf("the removed headers are\n%q, not\n%q", got, want)
	}
	if got := headersOf(ok)["x-workspace-slug"]; got != "acme" {
		t.Errorf("the workspace header is %q", got)
	}
	answer.WorkspaceHeader.Value = ""
	ok = checkedResponse(t, answer, true, header).GetOkResponse()
	if _, set := headersOf(ok)["x-workspace-slug"]; set || !slices.Contains(ok.GetHeadersToRemove(), "x-workspace-slug") {
		t.Errorf("without a workspace, the response is %v", ok)
	}
	if got := checkedResponse(t, denial(authz.CodeForbidden, authz.ReasonNoRoute), true, header).GetDeniedResponse().GetHeaders(); len(got) != 2 {
		t.Errorf("a denial has the headers %v", got)
	}
}
