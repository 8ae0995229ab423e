package authz_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
)

var (
	payment     = authz.DeclaredDenial{Code: "PAYMENT_REQUIRED", Reason: "plan_too_small", Status: 402, Message: "Your plan does not include this."}
	limited     = authz.DeclaredDenial{Code: "RATE_LIMITED", Reason: "quota", Status: 429, Message: "Too many requests.", RetryAfter: 30 * time.Second}
	officeHours = authz.DeclaredDenial{Code: authz.CodeForbidden, Reason: "outside_office_hours", Message: "Come back in office hours."}
)

func TestInvalidDenialIsRefused(t *testing.T) {
	change := func(d authz.DeclaredDenial, modify func(*authz.DeclaredDenial)) authz.DeclaredDenial {
		modify(&d)
		return d
	}
	for name, c := range map[string]struct {
		denials []authz.DeclaredDenial
		want    string
	}{
		"a code in lower case":               {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Code = "payment" })}, `denials[0].code: "payment" is not valid: write 1 to 64`},
		"no code":                            {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Code = "" })}, `denials[0].code: ""`},
		"a code of 65 characters":            {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Code = authz.Code(strings.Repeat("A", 65)) })}, `denials[0].code: `},
		"the code UNAVAILABLE":               {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Code = authz.CodeUnavailable })}, `denials[0].code: UNAVAILABLE is reserved for the sidecar`},
		"the code REQUEST_TOO_LARGE":         {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Code = authz.CodeRequestTooLarge })}, `denials[0].code: REQUEST_TOO_LARGE`},
		"a reason in capitals":               {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Reason = "Plan" })}, `denials[0].reason: "Plan" is not valid: write 1 to 64`},
		"a built-in pair":                    {[]authz.DeclaredDenial{change(officeHours, func(d *authz.DeclaredDenial) { d.Reason = authz.ReasonMissingScope })}, `denials[0].reason: missing_scope is built in, under the code FORBIDDEN`},
		"a built-in reason of another code":  {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Reason = authz.ReasonExpired })}, `denials[0].reason: expired is built in, under the code UNAUTHORIZED`},
		"no status":                          {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Status = 0 })}, `denials[0].status: 0 is not from 400 to 499`},
		"a 2xx status":                       {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Status = 200 })}, `denials[0].status: 200`},
		"a 5xx status":                       {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Status = 500 })}, `denials[0].status: 500`},
		"another status for a built-in code": {[]authz.DeclaredDenial{change(officeHours, func(d *authz.DeclaredDenial) { d.Status = 404 })}, `denials[0].status: the status of FORBIDDEN is always 403`},
		"no message":                         {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Message = "" })}, `denials[0].message: write one line`},
		"a message of two lines":             {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Message = "a\nb" })}, `denials[0].message: `},
		"a message that is not UTF-8":        {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Message = "a\xff" })}, `denials[0].message: `},
		"a message of 513 bytes":             {[]authz.DeclaredDenial{change(payment, func(d *authz.DeclaredDenial) { d.Message = strings.Repeat("a", 513) })}, `denials[0].message: `},
		"a retry time of 1.5 seconds":        {[]authz.DeclaredDenial{payment, change(limited, func(d *authz.DeclaredDenial) { d.RetryAfter = 1500 * time.Millisecond })}, `denials[1].retry_after: 1.5s is not`},
		"a negative retry time":              {[]authz.DeclaredDenial{change(limited, func(d *authz.DeclaredDenial) { d.RetryAfter = -time.Second })}, `denials[0].retry_after: -1s`},
		"a retry time above a day":           {[]authz.DeclaredDenial{change(limited, func(d *authz.DeclaredDenial) { d.RetryAfter = 25 * time.Hour })}, `denials[0].retry_after: 25h0m0s`},
		"the same code and reason twice":     {[]authz.DeclaredDenial{payment, limited, payment}, `denials[2].reason: plan_too_small is declared twice under the code PAYMENT_REQUIRED`},
		"two statuses for one code":          {[]authz.DeclaredDenial{payment, change(payment, func(d *authz.DeclaredDenial) { d.Reason, d.Status = "unpaid", 403 })}, `denials[1].status: PAYMENT_REQUIRED has the status 402 above`},
	} {
		api := config().APIs["velocity"]
		api.Denials = c.denials
		if _, err := api.Complete(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestDeclaredDenials(t *testing.T) {
	api := config().APIs["velocity"]
	unpaid := payment
	unpaid.Reason = "unpaid"
	declared := []authz.DeclaredDenial{payment, unpaid, limited, officeHours}
	api.Denials = declared
	api, err := api.Complete()
	if err == nil {
		api, err = api.Complete() // a second call changes nothing
	}
	if err != nil || api.Denials[3].Status != 403 || declared[3].Status != 0 {
		t.Fatalf("got %+v, %v; the argument is %+v", api.Denials, err, declared)
	}
	for pair, want := range map[[2]string]bool{
		{"PAYMENT_REQUIRED", "plan_too_small"}: true, {"PAYMENT_REQUIRED", ""}: true, {"", "plan_too_small"}: true,
		{"FORBIDDEN", "outside_office_hours"}: true, {"FORBIDDEN", "missing_scope"}: true, {"UNAUTHORIZED", ""}: true, {"", "revoked"}: true,
		{"PAYMENT_REQUIRED", "quota"}: false, {"FORBIDDEN", "quota"}: false, {"TEAPOT", ""}: false, {"", "tea"}: false, {"FORBIDDEN", "expired"}: false,
	} {
		if got := api.CanDeny(authz.Code(pair[0]), authz.Reason(pair[1])); got != want {
			t.Errorf("%v: %v", pair, got)
		}
	}
}

// The API must declare each denial that is not built in, and each header. A decision with an undeclared denial or header is an
// error.
func TestDeclaredAnswers(t *testing.T) {
	c := config()
	velaflows := c.APIs["velaflows"]
	velaflows.Denials = []authz.DeclaredDenial{payment, limited, officeHours}
	velaflows.UpstreamHeaders = []string{"x-plan", "x-region"}
	c.APIs["velaflows"] = velaflows
	allow := func(headers map[string]string) authz.Decision { return authz.Decision{Allow: true, Headers: headers} }
	for name, c := range map[string]struct {
		decision authz.Decision
		err      string // empty: no error
		want     authz.Answer
	}{
		"a declared code":   {authz.Decision{Code: "PAYMENT_REQUIRED", Reason: "plan_too_small"}, "", authz.Answer{Status: 402, Message: payment.Message}},
		"a declared reason": {authz.Decision{Code: authz.CodeForbidden, Reason: "outside_office_hours"}, "", authz.Answer{Status: 403, Message: officeHours.Message}},
		"the configured retry time": {authz.Decision{Code: "RATE_LIMITED", Reason: "quota"}, "",
			authz.Answer{Status: 429, Message: limited.Message, Decision: authz.Decision{RetryAfter: 30}}},
		"the policy's retry time": {authz.Decision{Code: "RATE_LIMITED", Reason: "quota", RetryAfter: 86400}, "",
			authz.Answer{Status: 429, Message: limited.Message, Decision: authz.Decision{RetryAfter: 86400}}},
		"a retry time above a day":          {authz.Decision{Code: "RATE_LIMITED", Reason: "quota", RetryAfter: 86401}, "retry_after is 86401", authz.Answer{}},
		"a negative retry time":             {authz.Decision{Code: "RATE_LIMITED", Reason: "quota", RetryAfter: -1}, "retry_after is -1", authz.Answer{}},
		"a retry time of a built-in reason": {authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonNoRoute, RetryAfter: 1}, "is built in and has no retry_after", authz.Answer{}},
		"a retry time of an allow":          {authz.Decision{Allow: true, RetryAfter: 1}, "retry_after 1", authz.Answer{}},
		"the reason of another code":        {authz.Decision{Code: "PAYMENT_REQUIRED", Reason: "quota"}, `"PAYMENT_REQUIRED" and the reason "quota"`, authz.Answer{}},
		"an undeclared code":                {authz.Decision{Code: "TEAPOT", Reason: "tea"}, `"TEAPOT"`, authz.Answer{}},
		"an invalid scope in any_of":        {authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonMissingScope, AnyOf: []string{"a", "b c"}}, `"b c", which is not a valid scope`, authz.Answer{}},
		"a header of a denial":              {authz.Decision{Code: "RATE_LIMITED", Reason: "quota", Headers: map[string]string{"x-plan": "pro"}}, "has headers", authz.Answer{}},
		"one of two headers":                {allow(map[string]string{"x-plan": "größe"}), "", authz.Answer{UpstreamHeaders: []authz.HeaderValue{{Name: "x-plan", Value: "größe"}, {Name: "x-region"}}}},
		"no headers":                        {allow(nil), "", authz.Answer{UpstreamHeaders: []authz.HeaderValue{{Name: "x-plan"}, {Name: "x-region"}}}},
		"an undeclared header":              {allow(map[string]string{"x-role": "secret"}), `header "x-role"`, authz.Answer{}},
		"a header in capitals":              {allow(map[string]string{"X-Plan": "secret"}), `header "X-Plan"`, authz.Answer{}},
		"a line break in a value":           {allow(map[string]string{"x-plan": "secret\r\nx-role: admin"}), "its value for x-plan", authz.Answer{}},
		"a value that is not UTF-8":         {allow(map[string]string{"x-plan": "secret\xff"}), "its value for x-plan", authz.Answer{}},
		"a NUL in a value":                  {allow(map[string]string{"x-plan": "secret\x00"}), "its value for x-plan", authz.Answer{}},
		"a denial of another API":           {authz.Decision{Code: "RATE_LIMITED", Reason: "burst"}, `"burst"`, authz.Answer{}},
	} {
		withDenials := config()
		withDenials.APIs["velaflows"] = velaflows
		velocity := withDenials.APIs["velocity"]
		velocity.Denials = []authz.DeclaredDenial{{Code: "RATE_LIMITED", Reason: "burst", Status: 429, Message: "Slow down."}}
		withDenials.APIs["velocity"] = velocity
		p := &policy{decide: func(in authz.Input) (authz.Decision, error) {
			if in.Denial != "" {
				return principalsOnly(in)
			}
			return c.decision, nil
		}}
		got, err := newAuthorizer(t, withDenials, &directory{found: acme}, p).Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey)))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: got %v, want %q in it", name, err, c.err)
			}
			if got.Allow || got.Code != authz.CodeUnavailable || got.UpstreamHeaders != nil || got.Headers != nil {
				t.Errorf("%s: the answer with the error is %+v", name, got)
			}
			continue
		}
		if err != nil || got.Allow != c.decision.Allow || got.Status != c.want.Status || got.Message != c.want.Message ||
			got.RetryAfter != c.want.RetryAfter || !slices.Equal(got.UpstreamHeaders, c.want.UpstreamHeaders) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}
