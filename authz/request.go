package authz

import (
	"strings"
	"time"
)

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
	Header Fields
	// Context is what the PEP's configuration says of the route (Envoy's context extensions). Each name is there once.
	Context Fields
	Source  Connection
}

// Fields are names with values, in the order in which they came.
type Fields []HeaderValue

// Get returns the first value of a name, and how many there are.
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

// Values returns every value of a name.
func (f Fields) Values(name string) (values []string) {
	for _, field := range f {
		if field.Name == name {
			values = append(values, field.Value)
		}
	}
	return values
}

// Input is what a policy sees of a check. It holds no secret. What the policy's [Reading] does not name may be missing.
type Input struct {
	API      string
	Time     time.Time // of the check
	Method   string
	Path     string // the decoded segments, joined by /; empty when the path has no clear meaning
	RawQuery string // behind the first ?, as it was sent
	Query    map[string][]string
	Header   map[string][]string // allowed ones only
	Host     string
	// Principal is nil exactly when Denial is set.
	Principal *Principal
	Denial    Reason
	Workspace Workspace
	Context   Fields
	Source    Source
}

// Segments are those of the path; none when it has no clear meaning. A decoded segment holds no slash.
func (in Input) Segments() []string {
	if in.Path == "" {
		return nil
	}
	return strings.Split(in.Path[1:], "/")
}
