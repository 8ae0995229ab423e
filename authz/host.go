package authz

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

// hosts maps host patterns to the names of APIs.
type hosts map[string]string

func newHosts(apis map[string]*API) (hosts, error) {
	h := make(hosts)
	for _, name := range slices.Sorted(maps.Keys(apis)) {
		for _, host := range apis[name].Hosts {
			if other, ok := h[host]; ok {
				return nil, fmt.Errorf("apis.%s.hosts: %q is also a host of %s", name, host, other)
			}
			h[host] = name
		}
	}
	return h, nil
}

// find returns the name of the API that serves the host, or "". It ignores letter case and the port: the client chooses them, and
// Envoy routes by neither. A trailing dot is significant, as in Envoy. An exact host takes precedence over a wildcard, and a
// longer wildcard over a shorter one: this is Envoy's order of virtual hosts.
func (h hosts) find(host string) string {
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
		_, after, ok := strings.Cut(host, ".")
		if !ok {
			return ""
		}
		if name, ok := h["*."+after]; ok {
			return name
		}
		host = after
	}
}

// lowerASCII changes ASCII letters only. Go maps some other letters to an ASCII letter, and Envoy does not.
func lowerASCII(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}
