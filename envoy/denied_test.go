package envoy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/keywicket/keywicket/authz"
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
