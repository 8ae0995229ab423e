package envoy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/race"
)

func TestDenial(t *testing.T) {
	for _, c := range []struct {
		answer    authz.Answer
		status    int32
		grpc      codes.Code
		challenge string
		retry     string
	}{
		{denial("UNAUTHORIZED", "missing"), 401, codes.Unauthenticated, `Bearer realm="keywicket"`, ""},
		{denial("UNAUTHORIZED", "malformed"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("UNAUTHORIZED", "unknown"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("UNAUTHORIZED", "expired"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("UNAUTHORIZED", "revoked", "a"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("FORBIDDEN", "missing_scope", "crm:read", "crm:delete"), 403, codes.PermissionDenied, `Bearer error="insufficient_scope", scope="crm:read crm:delete"`, ""},
		{denial("FORBIDDEN", "no_route"), 403, codes.PermissionDenied, `Bearer error="insufficient_scope"`, ""},
		{denial("WORKSPACE_ACCESS_DENIED", "workspace_required", "a"), 403, codes.PermissionDenied, "", ""},
		{denial("WORKSPACE_ACCESS_DENIED", "workspace_mismatch", "a"), 403, codes.PermissionDenied, "", ""},
		{denial("UNAUTHORIZED", "unsupported_algorithm"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("UNAUTHORIZED", "app_token"), 401, codes.Unauthenticated, `Bearer realm="keywicket", error="invalid_token"`, ""},
		{denial("UNAUTHORIZED", "second_factor_required"), 401, codes.Unauthenticated, `Bearer realm="keywicket", ` +
			`error="insufficient_user_authentication", error_description="a second factor is required", acr_values="aal2"`, ""},
		{authz.Answer{ID: "D1", Decision: authz.TooLarge}, 431, codes.ResourceExhausted, "", ""},
		{denial("UNAVAILABLE", "unavailable"), 503, codes.Unavailable, "", "1"},
	} {
		check := checkedResponse(t, c.answer, false, nil)
		denied := check.GetDeniedResponse()
		set := make(map[string]string)
		for _, h := range denied.GetHeaders() {
			set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		if check.GetStatus().GetCode() != int32(c.grpc) || int32(denied.GetStatus().GetCode()) != c.status ||
			set["www-authenticate"] != c.challenge || set["retry-after"] != c.retry || set["content-type"] != "application/json" {
			t.Errorf("%s: got %v", c.answer.Reason, check)
		}
		var b referenceBody
		if err := json.Unmarshal([]byte(denied.GetBody()), &b); err != nil {
			t.Fatal(err)
		}
		wantScopes := c.answer.RequiredScopes
		if c.answer.Reason != "missing_scope" {
			wantScopes = nil
		}
		if b.Error.Code != c.answer.Code || b.Error.Reason != c.answer.Reason || b.Error.Message == "" ||
			b.Error.DecisionID != "D1" || !reflect.DeepEqual(b.Error.RequiredScopes, wantScopes) {
			t.Errorf("%s: body %s", c.answer.Reason, denied.GetBody())
		}
	}
}

func declaredDenial(status int, code authz.Code, reason authz.Reason, retryAfter int) authz.Answer {
	a := denial(code, reason, "a")
	a.Status, a.Message, a.RetryAfter = status, "The declared message.", retryAfter
	return a
}

// An API's configuration can declare denials. The client gets the status, the message and the Retry-After that the configuration
// declares. A 401 has a challenge. The gRPC status of a denial is never OK.
func TestDeclaredDenial(t *testing.T) {
	for _, c := range []struct {
		answer           authz.Answer
		challenge, retry string
	}{
		{declaredDenial(402, "PAYMENT_REQUIRED", "plan_too_small", 0), "", ""},
		{declaredDenial(429, "RATE_LIMITED", "quota", 30), "", "30"},
		{declaredDenial(418, "TEAPOT", "tea", 0), "", ""},
		{declaredDenial(403, "FORBIDDEN", "outside_office_hours", 0), "", ""},
		{declaredDenial(401, "UNAUTHORIZED", "device_unknown", 86400), `Bearer realm="keywicket", error="invalid_token"`, "86400"},
		{declaredDenial(401, "DEVICE_REQUIRED", "device_unknown", 0), `Bearer realm="keywicket", error="invalid_token"`, ""},
	} {
		check := checkedResponse(t, c.answer, false, nil)
		denied := check.GetDeniedResponse()
		set := make(map[string]string)
		for _, h := range denied.GetHeaders() {
			set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		if check.GetStatus().GetCode() == int32(codes.OK) || int(denied.GetStatus().GetCode()) != c.answer.Status ||
			set["www-authenticate"] != c.challenge || set["retry-after"] != c.retry {
			t.Errorf("%s: got %v", c.answer.Code, check)
		}
		want := fmt.Sprintf(`{"error":{"code":"%s","reason":"%s","message":"The declared message.","decision_id":"D1"}}`+"\n", c.answer.Code, c.answer.Reason)
		if denied.GetBody() != want {
			t.Errorf("body %s, not %s", denied.GetBody(), want)
		}
		if got := check.GetDynamicMetadata().AsMap(); got["code"] != string(c.answer.Code) || got["reason"] != string(c.answer.Reason) {
			t.Errorf("metadata %v", got)
		}
	}
}

// If OAuth 2.0 apps can get tokens for the API, each challenge has the scopes of the route and the URL of the metadata. See RFC 9728,
// section 5.1; RFC 6750, section 3).
func TestChallengeOfAnAPIWithApps(t *testing.T) {
	const url, metadata = "https://velocity.quest/m", `, resource_metadata="https://velocity.quest/m"`
	anyOf := denial("UNAUTHORIZED", "missing", "a")
	anyOf.AnyOf = []string{"b", "c"}
	for want, answer := range map[string]authz.Answer{
		`Bearer realm="keywicket", scope="a b"` + metadata:                      anyOf,
		`Bearer realm="keywicket"` + metadata:                                   denial("UNAUTHORIZED", "missing"),
		`Bearer realm="keywicket", error="invalid_token", scope="a"` + metadata: denial("UNAUTHORIZED", "revoked", "a"),
		`Bearer error="insufficient_scope", scope="a b"` + metadata:             denial("FORBIDDEN", "missing_scope", "a", "b"),
		`Bearer error="insufficient_scope"` + metadata:                          denial("FORBIDDEN", "no_route"),
		"": denial("WORKSPACE_ACCESS_DENIED", "workspace_mismatch", "a"),
	} {
		answer.ResourceMetadata = url
		got := ""
		for _, h := range checkedResponse(t, answer, false, nil).GetDeniedResponse().GetHeaders() {
			if h.GetHeader().GetKey() == "www-authenticate" {
				got = h.GetHeader().GetValue()
			}
		}
		if got != want {
			t.Errorf("%s: got %q, not %q", answer.Reason, got, want)
		}
	}
}

// The challenge is written without an allocation, also with the URL of the metadata and many scopes.
func TestChallengeNeedsNoAllocation(t *testing.T) {
	race.Skip(t)
	answer := denial("UNAUTHORIZED", "missing", "issues:read", "issues:write", "projects:read", "projects:write", "documents:read")
	b := make([]byte, 0, 4096)
	allocations := func() float64 {
		return testing.AllocsPerRun(100, func() { appendDenied(b, &answer) })
	}
	before := allocations()
	answer.ResourceMetadata = "https://a-rather-long-name-of-a-product.example.com/.well-known/oauth-protected-resource"
	if after := allocations(); after > before {
		t.Errorf("%v allocations, not %v", after, before)
	}
}

// The body lists all scopes of any_of. The challenge lists the first scope of any_of, after the required scopes.
func TestDenialListsAnyOf(t *testing.T) {
	for _, c := range []struct {
		required, anyOf []string
		challenge, body string
	}{
		{[]string{"a"}, []string{"b", "c"}, `scope="a b"`, `"required_scopes":["a"],"any_of":["b","c"]`},
		{nil, []string{"b", "c"}, `scope="b"`, `"any_of":["b","c"]`},
		{[]string{"a"}, nil, `scope="a"`, `"required_scopes":["a"],"decision_id"`},
	} {
		answer := denial("FORBIDDEN", "missing_scope", c.required...)
		answer.AnyOf = c.anyOf
		denied := checkedResponse(t, answer, false, nil).GetDeniedResponse()
		if got := denied.GetHeaders()[1].GetHeader().GetValue(); got != `Bearer error="insufficient_scope", `+c.challenge {
			t.Errorf("challenge %s", got)
		}
		if !strings.Contains(denied.GetBody(), c.body) || strings.Contains(denied.GetBody(), "one of any_of") != (c.anyOf != nil) {
			t.Errorf("body %s", denied.GetBody())
		}
	}
	answer := denial("WORKSPACE_ACCESS_DENIED", "workspace_required", "a")
	answer.AnyOf = []string{"b"}
	if body := checkedResponse(t, answer, false, nil).GetDeniedResponse().GetBody(); strings.Contains(body, "any_of") {
		t.Errorf("with another reason, the body is %s", body)
	}
}
