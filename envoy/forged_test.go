package envoy

import (
	"slices"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// What a server may take for a header of the sidecar's is removed from an allowed request, and nothing else is.
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
	answer := ada
	answer.WorkspaceHeader = authz.HeaderValue{Name: "x-workspace-slug", Value: "acme"}
	// As they may be sent. They are removed or set in any case, so that they are not listed again.
	for _, name := range identity {
		send(name)
	}
	for _, name := range append(overriding, "x-workspace-slug") {
		send(name)
	}
	ok := written(t, answer, true, header).GetOkResponse()
	slices.Sort(forgeries)
	if got, want := ok.GetHeadersToRemove(), slices.Concat([]string{"x-keywicket-aal"}, overriding, forgeries); !slices.Equal(got, want) {
		t.Errorf("removed are\n%q, not\n%q", got, want)
	}
	if got := headersOf(ok)["x-workspace-slug"]; got != "acme" {
		t.Errorf("the workspace header is %q", got)
	}
	answer.WorkspaceHeader.Value = ""
	ok = written(t, answer, true, header).GetOkResponse()
	if _, set := headersOf(ok)["x-workspace-slug"]; set || !slices.Contains(ok.GetHeadersToRemove(), "x-workspace-slug") {
		t.Errorf("the workspace header of no workspace: %v", ok)
	}
	if got := written(t, denial(authz.CodeForbidden, authz.ReasonNoRoute), true, header).GetDeniedResponse().GetHeaders(); len(got) != 2 {
		t.Errorf("a denial has the headers %v", got)
	}
}
