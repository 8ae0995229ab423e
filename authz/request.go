package authz

import "time"

// AuthorizationHeader is the only place a credential is taken from (RFC 6750, section 2.1); one in a query or a body
// is ignored.
const AuthorizationHeader = "authorization"

// Request is what the PEP asks about, as it came from the client.
type Request struct {
	// API names the API that the request is for; empty: the configured default.
	API    string
	Method string
	// Path is as the client sent it, escapes and query included.
	Path string
	Host string
	// Header has lower-case names, and every value of a repeated header on its own.
	Header map[string][]string
	// Context is what the PEP's configuration says of the route (Envoy's context extensions).
	Context map[string]string
	Source  Connection
}

// Input is what a policy sees of a check. It holds no secret.
type Input struct {
	API      string
	Time     time.Time // of the check
	Method   string
	Path     string   // the decoded segments, joined by /; empty when there are none
	Segments []string // of the path, decoded; none when the path has no clear meaning
	RawQuery string   // behind the first ?, as it was sent
	Query    map[string][]string
	Header   map[string][]string // allowed ones only
	Host     string
	// Principal is nil exactly when Denial is set.
	Principal *Principal
	Denial    Reason
	Workspace Workspace
	Context   map[string]string
	Source    Source
}
