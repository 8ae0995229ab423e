package threats

import "strings"

// HostilePaths are paths that no credential may request. Envoy refuses most of these paths, but another policy enforcement
// point (PEP) may send them to the sidecar.
var HostilePaths = []string{
	"", "/", "*", "//", "?", "?/healthz", "#", "healthz", "//healthz", "/healthz/", "/healthz//", "/./healthz", "/healthz/.",
	"/x/../healthz", "/healthz;", "/healthz;x=y", "/healthz%00", "/healthz\x00", "/healthz%2f", "/healthz#", "/healthz ",
	"/healthz%20", "/%68ealthz%2F", "/HEALTHZ", "http://api.example/healthz",
	"/healthz/../api/v1/contacts", "/healthz/..;/api/v1/contacts", "/healthz%2f..%2fapi%2fv1%2fcontacts",
	"api/v1/contacts/7", "//api/v1/contacts/7", "/api//v1/contacts/7", "/api/v1/contacts/", "/api/v1/contacts//",
	"/api/v1/contacts/.", "/api/v1/contacts/..", "/api/v1/contacts/%2e", "/api/v1/contacts/%2e%2e", "/api/v1/contacts/.%2E",
	"/api/v1/contacts/a%2fb", "/api/v1/contacts/a%2Fb", "/api/v1/contacts/a%5cb", `/api/v1/contacts/a\b`,
	"/api/v1/contacts/a;b", "/api/v1/contacts/a%3bb", "/api/v1/contacts/a%23b", "/api/v1/contacts/a#b",
	"/api/v1/contacts/a%3fb", "/api/v1/contacts/a%25b", "/api/v1/contacts/%252e%252e", "/api/v1/contacts/a%00b",
	"/api/v1/contacts/a\x00b", "/api/v1/contacts/a%0ab", "/api/v1/contacts/a\nb", "/api/v1/contacts/a%7fb",
	"/api/v1/contacts/a b", "/api/v1/contacts/a\tb", "/api/v1/contacts/%", "/api/v1/contacts/%7", "/api/v1/contacts/%zz",
	"/api/v1/contacts/%ff", "/api/v1/contacts/%c0%ae%c0%ae", "/api/v1/contacts/\u00e9", "/api/v1/contacts/a|b",
	"/API/v1/contacts/7", "/api/v1/contacts%2f7", strings.Repeat("/a", 50_000), strings.Repeat("/..", 10_000),
}
