package source

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// blockedBuiltins are the built-in functions that access the network or the environment. A decision must not wait for the
// network, or expose the environment. The list includes the functions for JSON schemas, because a schema can refer to another
// schema by URL.
var blockedBuiltins = []string{
	ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.OPARuntime.Name, ast.JSONMatchSchema.Name, ast.JSONSchemaVerify.Name,
}

// capabilities returns OPA's capabilities without the blocked built-in functions.
func capabilities() *ast.Capabilities {
	c := everyBuiltin()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(blockedBuiltins, b.Name) })
	return c
}

// everyBuiltin returns OPA's capabilities, including the blocked built-in functions. Without these functions, the compiler
// would only report that a function is undefined, and sandbox could not report the reason. With these capabilities, the
// compiler cannot fetch schemas from the network.
func everyBuiltin() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	return c
}

// sandbox is a compiler stage that reports every use of a blocked built-in function. It must run after the stages that rename
// imports and variables: then a name such as http.send can only be the built-in function.
func sandbox(found *ast.Errors) ast.CompilerStageDefinition {
	return ast.CompilerStageDefinition{Name: "Sandbox", MetricName: "sandbox", Stage: func(c *ast.Compiler) *ast.Error {
		for _, module := range c.Modules {
			ast.WalkTerms(module, func(t *ast.Term) bool {
				if ref, ok := t.Value.(ast.Ref); ok && slices.Contains(blockedBuiltins, ref.String()) {
					*found = append(*found, ast.NewError(ast.CompileErr, t.Location,
						"%s is not available in the sidecar: a decision cannot access the network or the environment", ref))
				}
				return false
			})
		}
		return nil
	}}
}
