package document

import "github.com/open-policy-agent/opa/v1/ast"

// Part identifies a value that a decision may depend on: a part of the input document, or the row.
type Part uint8

// The parts.
const (
	InputAPI Part = iota
	InputTime
	InputDenial
	InputContext
	InputRow // the row of the API's table that the index finds by method and path; not in the document
	RequestMethod
	RequestPath
	RequestSegments
	RequestRawQuery
	RequestQuery
	RequestHeaders
	RequestHost
	WorkspaceRequested
	WorkspaceID
	WorkspaceSlug
	WorkspaceRole
	WorkspaceGranted
	WorkspaceAttributes
	SourceAddress
	SourcePrincipal
	SourceCertificate
	InputPrincipal // whether there is a principal; the parts from here to PrincipalUserAttributes are its fields
	PrincipalID
	PrincipalKind
	PrincipalAPI
	PrincipalEnvironment
	PrincipalUserID
	PrincipalScopes
	PrincipalNeeds // one bit for each set of scopes of the row: whether the principal has a scope of the set; not in the document
	PrincipalAAL
	PrincipalAttributes
	PrincipalUserAttributes
	NumberOfParts
)

// partRefs contains the reference of each part. Every reference begins with `input`.
var partRefs = func() (refs [NumberOfParts]ast.Ref) {
	for p, ref := range map[Part]string{
		InputAPI: "api", InputTime: "time", InputDenial: "denial", InputContext: "context", InputRow: "row",
		RequestMethod: "request.method", RequestPath: "request.path", RequestSegments: "request.segments", RequestRawQuery: "request.raw_query",
		RequestQuery: "request.query", RequestHeaders: "request.headers", RequestHost: "request.host",
		WorkspaceRequested: "workspace.requested", WorkspaceID: "workspace.id", WorkspaceSlug: "workspace.slug", WorkspaceRole: "workspace.role",
		WorkspaceGranted: "workspace.granted", WorkspaceAttributes: "workspace.attributes",
		SourceAddress: "source.address", SourcePrincipal: "source.principal", SourceCertificate: "source.certificate",
		InputPrincipal: "principal", PrincipalID: "principal.id", PrincipalKind: "principal.kind", PrincipalAPI: "principal.api",
		PrincipalEnvironment: "principal.environment", PrincipalUserID: "principal.user_id", PrincipalScopes: "principal.scopes", PrincipalNeeds: "principal.needs",
		PrincipalAAL: "principal.aal", PrincipalAttributes: "principal.attributes", PrincipalUserAttributes: "principal.user_attributes",
	} {
		refs[p] = ast.MustParseRef("input." + ref)
	}
	return refs
}()

// Ref returns the reference of the part, which begins with `input`. The caller must not modify the reference.
func (p Part) Ref() ast.Ref { return partRefs[p] }

// Reading contains true for each part that decisions may depend on. A rule that reads a prefix of a part's reference reads the
// part too. If a rule continues a reference with a variable, it may read every part below that reference.
type Reading [NumberOfParts]bool

// Source reports whether the rules read any part of the request's source.
func (r *Reading) Source() bool {
	return r[SourceAddress] || r[SourcePrincipal] || r[SourceCertificate]
}
