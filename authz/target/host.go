package target

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	hostForm    = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
	hostPattern = regexp.MustCompile(`^(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*$|^\[[0-9a-f:.]+\]$`)
)

// ValidHostPattern reports whether the text is a host in lower case and without a port, such as api.example.com or [::1], or a
// wildcard such as *.example.com.
func ValidHostPattern(s string) bool { return hostPattern.MatchString(s) }

// Hosts maps host patterns to the names of APIs.
type Hosts map[string]string

// NewHosts returns the hosts of all APIs. The parameter `patterns` maps the name of an API to its host patterns. If two APIs have
// the same pattern, NewHosts returns an error. The text of the error starts with the invalid configuration key.
func NewHosts(patterns map[string][]string) (Hosts, error) {
	h := make(Hosts)
	for _, name := range slices.Sorted(maps.Keys(patterns)) {
		for _, host := range patterns[name] {
			if other, ok := h[host]; ok {
				return nil, fmt.Errorf("apis.%s.hosts: %q is also a host of %s", name, host, other)
			}
			h[host] = name
		}
	}
	return h, nil
}

// Find returns the name of the API that serves the host, or "". Find ignores letter case and the port: the client chooses both, and
// Envoy's routing ignores both. A trailing dot is significant, as in Envoy. An exact host takes precedence over a wildcard. A
// longer wildcard takes precedence over a shorter one. Envoy selects virtual hosts in the same order.
func (h Hosts) Find(host string) string {
	host = strings.Map(lowerASCII, host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	if strings.HasPrefix(host, "*") {
		return ""
	}
	if name, ok := h[host]; ok {
		return name
	}
	if !hostForm.MatchString(host) {
		return ""
	}
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return ""
		}
		if name, ok := h["*."+parent]; ok {
			return name
		}
		host = parent
	}
}

// lowerASCII changes ASCII letters only. strings.ToLower would also map some other letters to an ASCII letter, but Envoy does not.
func lowerASCII(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}
