// Package header decides which headers policies may read and set.
package header

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// own is the prefix of the sidecar's own headers.
const own = "x-keywicket-"

var upstreamForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// secret are the headers that contain credentials.
var secret = []string{"authorization", "proxy-authorization", "cookie", "set-cookie"}

// reserved and reservedPrefixes are the headers that no policy may set or remove. They are credential headers, headers that describe
// the body or belong to one connection, headers that the sidecar removes, and headers that Envoy writes.
var (
	reserved = append([]string{
		"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
		"content-length", "content-type", "content-encoding", "forwarded", "via", "x-request-id", "x-method-override",
	}, secret...)
	reservedPrefixes = []string{own, "x-envoy-", "x-forwarded-", "x-original-", "x-rewrite-", "x-http-", "proxy-"}
)

// MayRead reports whether policies may read the header with this name in lower case. The name must be a valid header name. Policies may
// not read credential headers and the sidecar's own headers.
func MayRead(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && !slices.Contains(secret, name) && !strings.HasPrefix(name, own)
}

// CheckUpstream validates the names of the headers that the policy of an API may set for the upstream. The parameter `workspace` is
// the API's workspace header, which no policy may set. A name contains only letters, digits and dashes. Many servers read
// x_workspace_id as x-workspace-id. So a server could read a name with another character as a header that the policy must not set.
//
// The returned error begins with the position of the name, such as "[0]: ".
func CheckUpstream(names []string, workspace string) error {
	for i, name := range names {
		var err error
		switch {
		case !upstreamForm.MatchString(name):
			err = errors.New("is not valid: write 1 to 64 characters of a-z, 0-9 and -, starting with a letter")
		case name == workspace:
			err = errors.New("is the API's workspace header, and only the sidecar sets this header")
		case slices.Contains(reserved, name), slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
			err = errors.New("is a header that no policy may set")
		case slices.Contains(names[:i], name):
			err = errors.New("is listed twice")
		default:
			continue
		}
		return fmt.Errorf("[%d]: %q %w", i, name, err)
	}
	return nil
}
