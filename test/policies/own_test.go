package policies

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
)

// ownRows is a table with a route of each kind.
const ownRows = `
scopes: {workspace: {"books:read": Look at books}}
routes:
  - {method: GET, path: /, public: true}
  - {method: GET, path: /books, scopes: ["books:read"]}
`

// ownTest tests the table ownRows. It replaces API by the name of the API.
const ownTest = `package API_test

import data.keywicket
import data.keywicket.fixture

test_books if {
	request := fixture.at(fixture.anonymous("API", "GET /books"), fixture.own)
	keywicket.decision.allow with input as fixture.by(request, fixture.workspace_key(["books:read"]))
	not keywicket.decision.allow with input as fixture.by(request, fixture.workspace_key([]))
	not keywicket.decision.allow with input as request
	fixture.by(request, fixture.workspace_key([])).principal.api == "API"
	keywicket.decision.allow with input as fixture.anonymous("API", "GET /")
}
`

// ownRule is a rule of a policy author, and ownRuleTest tests it. Its package has the usual name, and its definitions have names
// that the tests of the rules use too.
const (
	ownRule = `package keywicket

deny contains {"code": "FORBIDDEN", "reason": "closed"} if input.principal.attributes.closed
`
	ownRuleTest = `package keywicket_test

import data.keywicket
import data.keywicket.fixture

tables := ["GET /books"]

zoo := {"attributes": {"closed": true}}

outcome(line, attributes) := decision.reason if {
	request := fixture.at(fixture.anonymous("library", line), fixture.own)
	reader := object.union(fixture.workspace_key(["books:read"]), attributes)
	decision := keywicket.decision with input as fixture.by(request, reader)
}

test_closed if outcome(tables[0], zoo) == "closed"
`
)

// The tests of the shipped rules do not depend on the tables in the policy folder. A folder passes all checks of
// `make test-policies`, and keywicket loads it, whatever its APIs are called.
func TestRulesPassTheirTestsWithAnyAPIs(t *testing.T) {
	t.Parallel()
	ownAPI := func(name string) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := rego.CopyRules(t)
			harness.AppendFile(t, filepath.Join(dir, "apis", name, "data.yaml"), ownRows)
			harness.AppendFile(t, filepath.Join(dir, "apis", name, name+"_test.rego"), strings.ReplaceAll(ownTest, "API", name))
			return dir
		}
	}
	without := func(sample string) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := rego.CopyBuiltin(t)
			if err := os.RemoveAll(filepath.Join(dir, "apis", sample)); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	withRule := func(t *testing.T) string {
		dir := ownAPI("library")(t)
		harness.AppendFile(t, filepath.Join(dir, "keywicket", "own.rego"), ownRule)
		harness.AppendFile(t, filepath.Join(dir, "keywicket", "own_test.rego"), ownRuleTest)
		return dir
	}
	for name, create := range map[string]func(t *testing.T) string{
		"an own API":                       ownAPI("library"),
		"an own API with a rule":           withRule,
		"the name of a sample":             ownAPI("velocity"),
		"a name in the tests of the rules": ownAPI("zoo"),
		"the name fixture":                 ownAPI("fixture"),
		"the name keywicket":               ownAPI("keywicket"),
		"without VelaFlows":                without("velaflows"),
		"without Velocity":                 without("velocity"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := create(t)
			if err := rego.Check(t, dir); err != nil {
				t.Error(err)
			}
			if _, err := policies.Load(t.Context(), policies.Config{Dir: dir}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Without an API, the rules pass their tests, but there is nothing to decide, so keywicket does not load the folder.
func TestPolicyWithoutAnAPIIsRefused(t *testing.T) {
	t.Parallel()
	dir := rego.CopyRules(t)
	if err := rego.Check(t, dir); err != nil {
		t.Error(err)
	}
	_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
	if want := "there is no table: create apis/NAME/data.yaml for your API"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
