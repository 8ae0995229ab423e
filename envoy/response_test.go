package envoy

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/keywicket/keywicket/authz"
)

var allowForAda = authz.Answer{
	Decision:  authz.Decision{Allow: true, Route: "GET /api/issues", RequiredScopes: []string{"issues:read"}},
	ID:        "D1",
	API:       "velocity",
	Principal: &authz.Principal{ID: "t1", Kind: authz.KindPersonalKey, Environment: authz.Live, UserID: "ada", Scopes: []string{"admin", "issues:read"}},
	Workspace: authz.Workspace{Requested: true, Granted: true, ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme", Role: "guest"},
}

func denial(code authz.Code, reason authz.Reason, scopes ...string) authz.Answer {
	a := allowForAda
	a.Decision = authz.Decision{Code: code, Reason: reason, RequiredScopes: scopes}
	return a
}

func headersOf(ok *authv3.OkHttpResponse) map[string]string {
	set := make(map[string]string)
	for _, h := range ok.GetHeaders() {
		set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return set
}

// removedHeaders returns the given names and overridingHeaders. Every allow removes overridingHeaders, because a server may read
// another method or path from these headers.
func removedHeaders(names ...string) []string { return slices.Concat(names, overridingHeaders) }

func TestAllowSetsIdentityHeaders(t *testing.T) {
	ok := checkedResponse(t, allowForAda, false, nil).GetOkResponse()
	want := map[string]string{
		"x-keywicket-subject":        "t1",
		"x-keywicket-kind":           "personal_key",
		"x-keywicket-api":            "velocity",
		"x-keywicket-workspace-id":   "64f1a2b3c4d5e6f7a8b9c0d1",
		"x-keywicket-workspace-slug": "acme",
		"x-keywicket-user-id":        "ada",
		"x-keywicket-scopes":         "admin issues:read",
		"x-keywicket-environment":    "live",
		"x-keywicket-decision-id":    "D1",
	}
	if got := headersOf(ok); !maps.Equal(got, want) {
		t.Errorf("set %v", got)
	}
	if got := ok.GetHeadersToRemove(); !slices.Equal(got, append(removedHeaders("x-keywicket-aal"), "authorization")) {
		t.Errorf("removed %v", got)
	}
}

func TestUnsetHeadersAreRemoved(t *testing.T) {
	workspaceKey := allowForAda
	workspaceKey.Principal = &authz.Principal{ID: "t1", Kind: authz.KindWorkspaceKey, Environment: authz.Live}
	public := authz.Answer{Decision: authz.Decision{Allow: true}, ID: "D1", API: "velocity", Public: true}
	for name, c := range map[string]struct {
		answer  authz.Answer
		forward bool
		removed []string
	}{
		"a workspace's key":      {workspaceKey, false, append(removedHeaders("x-keywicket-user-id", "x-keywicket-scopes", "x-keywicket-aal"), "authorization")},
		"a forwarded credential": {allowForAda, true, removedHeaders("x-keywicket-aal")},
		"a public route": {public, false, removedHeaders(
			"x-keywicket-subject", "x-keywicket-kind", "x-keywicket-workspace-id", "x-keywicket-workspace-slug",
			"x-keywicket-user-id", "x-keywicket-scopes", "x-keywicket-aal", "x-keywicket-environment",
		)},
	} {
		ok := checkedResponse(t, c.answer, c.forward, nil).GetOkResponse()
		if got := ok.GetHeadersToRemove(); !slices.Equal(got, c.removed) {
			t.Errorf("%s: removed %v", name, got)
		}
		for h := range headersOf(ok) {
			if slices.Contains(c.removed, h) {
				t.Errorf("%s: %s is set and removed", name, h)
			}
		}
	}
}

// The CheckResponse of an invalid answer, such as the zero value, must not be an allow.
func TestZeroAnswerIsADenial(t *testing.T) {
	for _, a := range []authz.Answer{{}, {Public: true}, denial("", ""), denial("SOMETHING", "new")} {
		check := checkedResponse(t, a, true, nil)
		if check.GetStatus() == nil || check.GetStatus().GetCode() == int32(codes.OK) || check.GetOkResponse() != nil ||
			check.GetDeniedResponse().GetStatus().GetCode() < 400 {
			t.Errorf("%+v: got %v", a, check)
		}
	}
}

func TestMetadata(t *testing.T) {
	got := checkedResponse(t, allowForAda, false, nil).GetDynamicMetadata().AsMap()
	want := map[string]any{
		"decision_id": "D1", "code": "", "reason": "", "subject": "t1", "kind": "personal_key", "environment": "live",
		"scopes": "admin issues:read", "workspace_id": "64f1a2b3c4d5e6f7a8b9c0d1",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	noPrincipal := checkedResponse(t, authz.Answer{ID: "D1", Decision: authz.Decision{Code: "UNAUTHORIZED", Reason: "missing"}}, false, nil)
	want = map[string]any{"decision_id": "D1", "code": "UNAUTHORIZED", "reason": "missing"}
	if got := noPrincipal.GetDynamicMetadata().AsMap(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

// Each header that the API's policy may set is set or removed, and its other spellings are removed.
func TestHeadersOfThePolicy(t *testing.T) {
	answer := allowForAda
	answer.UpstreamHeaders = []authz.HeaderValue{{Name: "x-plan", Value: "pro"}, {Name: "x-region"}}
	answer.WorkspaceHeader = authz.HeaderValue{Name: "x-workspace-slug", Value: "acme"}
	var sent authz.Fields
	for _, name := range []string{"x-plan", "x_plan", "x.plan", "x-region", "x_region", "x_workspace_slug", "x-planet"} {
		sent = append(sent, authz.HeaderValue{Name: name, Value: "evil"})
	}
	ok := checkedResponse(t, answer, true, sent).GetOkResponse()
	set, removed := headersOf(ok), ok.GetHeadersToRemove()
	if set["x-plan"] != "pro" || set["x-region"] != "" || set["x-workspace-slug"] != "acme" {
		t.Errorf("set %v", set)
	}
	if want := slices.Concat([]string{"x-keywicket-aal", "x-region"}, overridingHeaders, []string{"x.plan", "x_plan", "x_region", "x_workspace_slug"}); !slices.Equal(removed, want) {
		t.Errorf("removed %v", removed)
	}
	if answer.UpstreamHeaders[1].Name != "x-region" || len(answer.UpstreamHeaders) != 2 {
		t.Errorf("the answer was modified: %v", answer.UpstreamHeaders)
	}
}

// FuzzResponse checks the function `response` with any answer. `response` must write the same CheckResponse as referenceResponse,
// which uses the types of go-control-plane. The status of the CheckResponse is OK if and only if the answer is an allow.
func FuzzResponse(f *testing.F) {
	f.Add(true, "", "", "D1", "velocity", "t1", "personal_key", "ada", "a b", "acme", "x_keywicket_subject", 0, 0, false)
	f.Add(false, "FORBIDDEN", "missing_scope", "D1", "velocity", "t1", "session", "ada", "a", "acme", "x-plan", 403, 30, true)
	f.Add(false, "UNAVAILABLE", "unavailable", "", "", "", "", "", "", "", "", 0, 0, false)
	f.Add(true, "", "", strings.Repeat("x", 200), strings.Repeat("y", 20_000), "t", "k", "u", strings.Repeat("s ", 100), "w", "x-keywicket-", 0, 0, true)
	f.Fuzz(func(t *testing.T, allow bool, code, reason, id, api, subject, kind, user, scopes, workspace, name string, status, retryAfter int, flag bool) {
		for _, s := range []*string{&code, &reason, &id, &api, &subject, &kind, &user, &scopes, &workspace, &name} {
			*s = strings.ToValidUTF8(*s, "?") // see checkHeaderValues
		}
		answer := authz.Answer{
			ID: id, API: api, Public: flag, Status: status % 600, Message: reason, Cache: authz.CacheResult(code),
			Decision: authz.Decision{
				Allow: allow, Code: authz.Code(code), Reason: authz.Reason(reason), RequiredScopes: strings.Fields(scopes), RetryAfter: retryAfter,
			},
			Workspace:       authz.Workspace{Granted: flag, ID: workspace, Slug: workspace},
			WorkspaceHeader: authz.HeaderValue{Name: "x-workspace-slug", Value: workspace},
			UpstreamHeaders: authz.Fields{{Name: "x-plan", Value: reason}},
		}
		if allow {
			answer.Code, answer.Reason = "", ""
		}
		if subject != "" {
			answer.Principal = &authz.Principal{
				ID: subject, Kind: authz.Kind(kind), UserID: user, Scopes: strings.Fields(scopes), AAL: code, GrantID: reason, SessionID: user, Environment: authz.Live,
			}
			answer.AnyOf = answer.RequiredScopes
		}
		check := checkedResponse(t, answer, flag, authz.Fields{{Name: strings.ToLower(name), Value: "x"}, {Name: "x_plan"}})
		if check.GetStatus() == nil || (check.GetStatus().GetCode() == 0) != allow || (check.GetOkResponse() != nil) != allow ||
			(check.GetDeniedResponse() != nil) == allow || check.GetErrorResponse() != nil {
			t.Fatalf("%+v is written as %v", answer, check)
		}
	})
}
