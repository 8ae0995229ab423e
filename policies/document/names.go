package document

import "github.com/open-policy-agent/opa/v1/ast"

// References to the package keywicket, and to the rules that the engine uses by name. Callers must not modify the references.
var (
	PackageRef  = ast.MustParseRef("data.keywicket")
	DecisionRef = ast.MustParseRef("data.keywicket.decision")
	RouteRef    = ast.MustParseRef("data.keywicket.route")
	DenyRef     = ast.MustParseRef("data.keywicket.deny")
	HeadersRef  = ast.MustParseRef("data.keywicket.headers")
)

// RouteFile is the file with the rule `route`, which finds the row of a request.
const RouteFile = "keywicket/route.rego"
