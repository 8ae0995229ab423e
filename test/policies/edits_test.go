package policies

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
	"github.com/keywicket/keywicket/test/wire"
)

// These tests run the built-in policy with the edits below. The edits add denials and headers, and let the rules read more
// fields of a request. The query of a request selects the denial or the header.

const addedAnswers = `} else := denied("PAYMENT_REQUIRED", "plan_too_small") if {
	input.request.raw_query == "plan"
} else := denied("RATE_LIMITED", "quota") if {
	input.request.raw_query == "quota"
} else := object.union(denied("RATE_LIMITED", "quota"), {"retry_after": 7}) if {
	input.request.raw_query == "wait"
} else := denied("FORBIDDEN", "outside_office_hours") if {
	input.request.raw_query == "hours"
} else := denied("UNAUTHORIZED", "device_unknown") if {
	input.request.raw_query == "device"
} else := denied("BLOCKED", "by_the_client") if {
	input.request.raw_query == "499"
} else := denied(upper("teapot"), input.request.raw_query) if {
	input.request.raw_query == "undeclared"
} else := object.union(denied("FORBIDDEN", "missing_scope"), {"any_of": ["contacts:read", "admin:all"]}) if {
	input.request.raw_query == "any"
} else := object.union(allowed, {"headers": answer_headers}) if {
	permitted
	count(answer_headers) > 0
} else := allowed if {
	permitted
`

const addedHeaders = `
answer_headers := {"x-plan": "pro"} if {
	input.request.raw_query == "header"
} else := {"x-role": "confidential"} if {
	input.request.raw_query == "undeclared-header"
} else := {"x-plan": json.marshal(input.source)} if {
	input.request.raw_query == "source"
} else := {"x-plan": concat(" ", input.source.certificate.uris)} if {
	input.request.raw_query == "certificate"
} else := {"x-plan": sprintf("%d %v", [input.time, time.clock([input.time, "Europe/Berlin"])])} if {
	input.request.raw_query == "time"
} else := {}
`

const editedConfiguration = `
policies: {dir: DIR}
apis:
  velaflows:
    workspace: {header: x-workspace-id, by: id, required: true}
    credentials:
      - {kind: workspace_token, prefix: sk_live_, visible_prefix: 16, body_length: 40}
    denials: &denials
      - {code: PAYMENT_REQUIRED, reason: plan_too_small, status: 402, message: "Your plan does not include this."}
      - {code: RATE_LIMITED, reason: quota, status: 429, message: "Too many requests.", retry_after: 30s}
      - {code: FORBIDDEN, reason: outside_office_hours, message: "Come back in office hours."}
      - {code: UNAUTHORIZED, reason: device_unknown, message: "Register this device."}
      - {code: BLOCKED, reason: by_the_client, status: 499, message: "Blocked."}
    upstream_headers: [x-plan]
  velocity:
    workspace: {header: x-workspace-slug, by: slug}
    credentials:
      - {kind: workspace_key, prefix: vel_, visible_prefix: 12}
    upstream_headers: [x-plan]
`

// editedPolicy writes the edited policy and a configuration that uses it.
func editedPolicy(t *testing.T) (dir, config string) {
	t.Helper()
	dir = rego.CopyBuiltin(t)
	file := filepath.Join(dir, "keywicket", "decision.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = harness.Replace(t, text, "} else := allowed if {\n\tpermitted\n", addedAnswers, 1)
	if err := os.WriteFile(file, append(text, addedHeaders...), 0o600); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(t.TempDir(), "keywicket.yaml")
	harness.AppendFile(t, config, strings.Replace(editedConfiguration, "DIR", `"`+dir+`"`, 1))
	return dir, config
}

// permitPlanHeader makes the change to Envoy's configuration that docs/configuration.md describes for the header x-plan.
func permitPlanHeader(t *testing.T, envoy []byte) []byte {
	t.Helper()
	envoy = harness.Replace(t, envoy, `"authorization|x.(keywicket|`, `"authorization|x.plan|x.(keywicket|`, 1)
	return harness.Replace(t, envoy, `{regex: "x.keywicket..*"}`, `{regex: "x.keywicket..*|x[^-]plan"}`, 1)
}

type denied struct {
	Code, Reason, Message string
	DecisionID            string `json:"decision_id"`
}

func denialOf(t *testing.T, r harness.Reply) denied {
	t.Helper()
	var body struct{ Error denied }
	if err := json.Unmarshal([]byte(r.Body), &body); err != nil {
		t.Fatalf("%d %s: %v", r.Status, r.Body, err)
	}
	return body.Error
}

// planHeader returns the values of the header x-plan that the upstream received, in any spelling of the name. The edited
// policy writes what it has read into this header.
func planHeader(t *testing.T, r harness.Reply) string {
	t.Helper()
	var echo struct{ Headers map[string][]string }
	if err := json.Unmarshal([]byte(r.Body), &echo); err != nil || r.Status != http.StatusOK {
		t.Fatalf("%d %s: %v", r.Status, r.Body, err)
	}
	var seen []string
	for name, values := range echo.Headers {
		if wire.Punctuation.ReplaceAllString(name, "-") == "x-plan" {
			seen = append(seen, values...)
		}
	}
	return strings.Join(seen, " and ")
}
