package authz

import (
	"strings"
	"time"
)

// AuthorizationHeader is the only header that contains a credential for a check (RFC 6750, section 2.1). A credential in a query or
// a body is ignored.
//
// To support a second credential header, change API.credential and the following:
//   - the secret headers of package header, so that no policy reads or sets the header, and no API uses it as a workspace header;
//   - appendAllowed (envoy/response.go), so that the upstream does not receive the credential.
const AuthorizationHeader = "authorization"

// Request is the request of a client, as the PEP (policy enforcement point, such as Envoy) reports it.
type Request struct {
	// API is the name of the request's API. Empty: the host or the configured default selects the API.
	API    string
	Method string
	// Path is the path as the client sent it, including escapes and the query.
	Path string
	Host string
	// Header has names in lower case. A repeated header has one entry per value.
	Header Fields
	// Context contains the PEP's settings for the route (Envoy's context extensions). Each name occurs once.
	Context Fields
	Source  Connection
}

// Fields are names with values in the order of arrival, such as the headers of a request.
type Fields []HeaderValue

// Get returns the first value of a name, and the number of its values.
func (f Fields) Get(name string) (value string, n int) {
	for i := range f {
		if f[i].Name == name {
			if n == 0 {
				value = f[i].Value
			}
			n++
		}
	}
	return value, n
}

// Values returns all values of a name.
func (f Fields) Values(name string) (values []string) {
	for _, field := range f {
		if field.Name == name {
			values = append(values, field.Value)
		}
	}
	return values
}

// Input is the data of a check that a policy can read. It contains no secret. Data that the policy's [PolicyNeeds] does not request
// may be missing.
type Input struct {
	API    string
	Time   time.Time // time of the check
	Method string
	// Path contains the decoded segments, each after a /. It is empty if another server could decode the path to other segments
	// than keywicket; see [target.Segments].
	Path     string
	RawQuery string // the text after the first ?, as it was sent
	Query    map[string][]string
	Header   map[string][]string // only the configured allowed_headers
	Host     string
	// Principal is nil if and only if Denial is set.
	Principal *Principal
	Denial    Reason // why there is no principal: a reason of CodeUnauthorized
	Workspace Workspace
	Context   Fields
	Source    Source
}

// Segments returns the decoded segments of the path. If the field Path is empty, the method returns nil. A
// segment contains no slash.
func (in Input) Segments() []string {
	if in.Path == "" {
		return nil
	}
	return strings.Split(in.Path[1:], "/")
}
