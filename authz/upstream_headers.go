package authz

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	upstreamForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)
	headerForm   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`) // names that an error may quote
)

// reservedHeaders and reservedPrefixes are the headers that no policy may set or remove. They are credential headers
// (secretHeaders), headers that describe the body or belong to one connection, headers that the sidecar removes, and headers that
// Envoy writes.
var (
	reservedHeaders = append([]string{
		"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
		"content-length", "content-type", "content-encoding", "forwarded", "via", "x-request-id", "x-method-override",
	}, secretHeaders...)
	reservedPrefixes = []string{"x-keywicket-", "x-envoy-", "x-forwarded-", "x-original-", "x-rewrite-", "x-http-", "proxy-"}
)

// checkUpstreamHeaders validates the names in UpstreamHeaders. A name contains only letters, digits and dashes. Many servers read
// x_workspace_id as x-workspace-id. So a server could read a name with another character as a header that the policy must not set.
func (a API) checkUpstreamHeaders() error {
	for i, name := range a.UpstreamHeaders {
		var err error
		switch {
		case !upstreamForm.MatchString(name):
			err = errors.New("is not valid: write 1 to 64 characters of a-z, 0-9 and -, starting with a letter")
		case name == a.Workspace.Header:
			err = errors.New("is the API's workspace header, and only the sidecar sets this header")
		case slices.Contains(reservedHeaders, name), slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
			err = errors.New("is a header that no policy may set")
		case slices.Contains(a.UpstreamHeaders[:i], name):
			err = errors.New("is listed twice")
		default:
			continue
		}
		return fmt.Errorf("upstream_headers[%d]: %q %w", i, name, err)
	}
	return nil
}
