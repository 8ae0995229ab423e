// Package redirecturi decides which redirect URIs an OAuth app can register, and whether the redirect URI of a request is a registered
// one. The issuer, the console and the operator's commands use it.
package redirecturi

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Max is the maximum number of redirect URIs of an app.
const Max = 20

// CheckAll returns an error if an app cannot register these redirect URIs. The parameter development says whether the app is in
// development.
func CheckAll(uris []string, development bool) error {
	if len(uris) == 0 || len(uris) > Max {
		return fmt.Errorf("an app must have 1 to %d redirect URIs", Max)
	}
	for i, uri := range uris {
		if err := Check(uri, development); err != nil {
			return fmt.Errorf("%q: %w", uri, err)
		}
		if slices.Contains(uris[:i], uri) {
			return fmt.Errorf("%q is given twice: remove one of them", uri)
		}
	}
	return nil
}

// Check returns an error for an invalid redirect URI. The scheme must be https. Native apps may also use http on a
// loopback address, or a private scheme that contains a dot (RFC 8252, sections 7.3 and 7.1). An app in development may also use
// http on localhost. A fragment is not allowed (RFC 6749, section 3.1.2). The query must not contain a parameter of the
// authorization response, because this parameter would then occur twice in the redirect (section 3.1).
func Check(uri string, development bool) error {
	if len(uri) > 2000 {
		return errors.New("it is longer than 2,000 characters")
	}
	if strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.ContainsAny(uri, `"<>\^{|}*`+"`") {
		return errors.New("it has characters that are invalid in a URI, or a wildcard")
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme == "":
		return errors.New("it is not an absolute URI, such as https://app.example/callback")
	case strings.Contains(uri, "#"):
		return errors.New("it has a fragment (RFC 6749, section 3.1.2)")
	case u.User != nil:
		return errors.New("it has a user name: remove the user name")
	case slices.ContainsFunc(strings.Split(u.Path, "/"), func(segment string) bool { return segment == "." || segment == ".." }):
		return errors.New("its path has dot segments")
	case strings.ContainsFunc(u.Path, unicode.IsControl):
		return errors.New("its path has control characters")
	}
	// A ";" is an ordinary character, but some servers read it as "&". So a name after it must not be reserved either.
	query, err := url.ParseQuery(strings.ReplaceAll(u.RawQuery, ";", "&"))
	if err != nil {
		return errors.New("its query is malformed")
	}
	for _, name := range []string{"code", "state", "iss", "error", "error_description"} {
		if query.Has(name) {
			return fmt.Errorf("its query has %s, which is a parameter of the authorization response", name)
		}
	}
	switch {
	case u.Scheme == "https" && ValidHost(u):
		return nil
	case u.Scheme == "http" && strings.EqualFold(u.Hostname(), "localhost") && !development:
		return errors.New("localhost is only for an app in development, because this name may resolve to another address than loopback " +
			"(RFC 8252, section 8.3): use http://127.0.0.1, or mark the app as an app in development")
	case u.Scheme == "http":
		if _, _, ok := loopback(uri, development); !ok {
			return errors.New("http is allowed only for 127.0.0.1 and [::1], and for localhost if the app is in development (RFC 8252, section 8.3): use https")
		}
		return nil
	case u.Scheme != "https" && strings.Contains(u.Scheme, "."):
		return nil
	}
	return errors.New("it must be an https URI with a valid host, an http URI on 127.0.0.1 or [::1], or a URI with a scheme such as com.example.app")
}

var hostForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)

// ValidHost reports whether the URL's host is a name or an address with a valid port. It rejects characters with a special
// meaning in a page or a header.
func ValidHost(u *url.URL) bool {
	_, ipErr := netip.ParseAddr(u.Hostname())
	port, portErr := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16)
	bracketed := strings.HasPrefix(u.Host, "[")
	return portErr == nil && port > 0 && !strings.HasSuffix(u.Host, ":") && !strings.Contains(u.Host, "%") &&
		(bracketed && ipErr == nil || !bracketed && hostForm.MatchString(u.Hostname()))
}

// Matches reports whether the presented URI, which the app's request contains, matches the registered URI. The two
// URIs must be identical (RFC 9700, section 4.1.3). Only the port on a loopback address may differ, because a native app learns
// its port only when it runs (RFC 8252, section 7.3). For an app in development, the port on localhost may differ too.
func Matches(registered, presented string, development bool) bool {
	if registered == presented {
		return true
	}
	host, rest, ok := loopback(registered, development)
	presentedHost, presentedRest, presentedOK := loopback(presented, development)
	return ok && presentedOK && host == presentedHost && rest == presentedRest
}

// loopback splits an http URI whose host is a loopback address, or localhost if the app is in development. The result `host` is
// "http://" with the address. The result `rest` is the part after the host and the optional port. For any other URI, ok is false.
func loopback(uri string, development bool) (host, rest string, ok bool) {
	const localhost = "http://localhost"
	for _, host := range []string{"http://127.0.0.1", "http://[::1]", localhost} {
		rest, ok := strings.CutPrefix(uri, host)
		if !ok || host == localhost && !development {
			continue
		}
		if port, hasPort := strings.CutPrefix(rest, ":"); hasPort {
			rest = strings.TrimLeft(port, "0123456789")
			if digits := len(port) - len(rest); digits == 0 || digits > 5 {
				return "", "", false
			}
		}
		return host, rest, rest == "" || rest[0] == '/' || rest[0] == '?'
	}
	return "", "", false
}
