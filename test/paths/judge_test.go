package paths

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/test/wire"
)

// spelling is a target that a client sends.
type spelling struct {
	target   string
	segments []string // the decoded segments; nil: the target is hostile, and Envoy may change or refuse it
}

// trial is the result of a spelling that was sent over one protocol with tokens of one scope.
type trial struct {
	spelling
	protocol, scope string
	direct          string           // outcome of a check of the unchanged target that the test sends to the sidecar's gRPC port, without Envoy
	throughEnvoy    [2]envoyResult   // through Envoy, with a live token and with a sandbox token
	reached         map[string]int64 // upstream → requests that arrived there
}

// envoyResult is the result of one request through Envoy.
type envoyResult struct {
	outcome string
	reading reading // the upstream's reading of an allowed request
}

func (t trial) String() string {
	return fmt.Sprintf("%s with %s: %.200q: direct check %s; live %v; sandbox %v; arrived %v",
		t.protocol, t.scope, t.target, t.direct, t.throughEnvoy[0], t.throughEnvoy[1], t.reached)
}

func (p envoyResult) String() string {
	return fmt.Sprintf("%s %.200q %.200q", p.outcome, p.reading.Path, p.reading.Segments)
}

// isRefused reports whether Envoy itself refused the request, without a check.
func (p envoyResult) isRefused() bool {
	return p.outcome != "allow" && !strings.HasPrefix(p.outcome, "403 ")
}

// The kinds of requests. The trials must include many requests of each kind.
const (
	isAllowed        = "allowed"
	isChanged        = "allowed, and changed by Envoy"
	hasEscapes       = "allowed, with escapes for the upstream"
	hasSpecial       = "allowed, with a special character"
	lacksScope       = "denied for their scope"
	hasNoRoute       = "denied for their path"
	isHostile        = "hostile and denied"
	isNormalised     = "hostile and allowed"
	isRefusedByEnvoy = "refused by Envoy"
)

var trialKinds = []string{
	isAllowed, isChanged, hasEscapes, hasSpecial, lacksScope, hasNoRoute, isHostile, isNormalised, isRefusedByEnvoy,
}

func (t trial) count(kinds map[string]int) {
	for _, p := range t.throughEnvoy {
		allowed, spelled := p.outcome == "allow", t.segments != nil
		for kind, is := range map[string]bool{
			isAllowed:        spelled && allowed,
			isChanged:        spelled && allowed && t.target != p.reading.Path,
			hasEscapes:       spelled && allowed && strings.Contains(p.reading.Path, "%"),
			hasSpecial:       spelled && allowed && strings.ContainsAny(strings.Join(t.segments, ""), "#%?;"),
			lacksScope:       spelled && strings.HasSuffix(p.outcome, " missing_scope"),
			hasNoRoute:       spelled && p.outcome == wire.NoRoute,
			isHostile:        !spelled && p.outcome == wire.NoRoute,
			isNormalised:     !spelled && allowed,
			isRefusedByEnvoy: p.isRefused(),
		} {
			if is {
				kinds[kind]++
			}
		}
	}
}

// judge computes the correct outcome of a path from the rows of the table, without Rego.
type judge struct {
	special string // special characters that a parameter may contain if they are escaped; a semicolon may also be unescaped

	// Each of these fields makes a judge wrong on purpose. The test must detect every wrong judge.
	rawRows      bool // does not decode rows
	fromTheRight bool // compares literals and parameters from the right
	firstRow     bool // takes the first row that matches
	lastRow      bool // takes the last row that matches
}

var (
	pchars = regexp.MustCompile(`\A(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+\z`)
	// Characters that some servers read in another way: separators, control characters, and escapes, which a server may
	// decode twice.
	ambiguousText = regexp.MustCompile(`[/\\\x00-\x1f\x7f-\x{9f}]|%[0-9A-Fa-f]{2}`)
	// Dot segments, and segments that become a dot segment if a server cuts them at ";" or parses the path again.
	dotSegment = regexp.MustCompile(`(?s)\A(?:\.\.?|\.?\.?;.*|\.\.?[?#].*)\z`)
)

// segments decodes a target. ok reports whether every server reads the same segments.
func (j judge) segments(target string) (segments []string, ok bool) {
	p, _, _ := strings.Cut(target, "?")
	if !pchars.MatchString(p) || strings.Contains(p, "//") || strings.Contains(p, ";") && !strings.Contains(j.special, ";") {
		return nil, false
	}
	for _, raw := range strings.Split(p[1:], "/") {
		s, err := url.PathUnescape(raw)
		if err != nil || !j.hasOneReading(s) {
			return nil, false
		}
		segments = append(segments, s)
	}
	return segments, true
}

func (j judge) hasOneReading(segment string) bool {
	return utf8.ValidString(segment) && !ambiguousText.MatchString(segment) && !dotSegment.MatchString(segment) &&
		!strings.ContainsFunc(segment, func(r rune) bool {
			return strings.ContainsRune("#%?;", r) && !strings.ContainsRune(j.special, r)
		})
}

// row returns the row that matches the segments and has priority.
func (j judge) row(segments []string) (row testRow, found bool) {
	var least string // the lowest shape so far: the alphabetically first shape has priority
	for _, r := range testRows {
		shape, matches := j.shape(r, segments)
		if matches && (!found || j.lastRow || shape < least && !j.firstRow) {
			row, least, found = r, shape, true
		}
	}
	return row, found
}

// shape returns a letter for each segment of a row: l for a literal, p for a parameter.
func (j judge) shape(r testRow, segments []string) (shape string, matches bool) {
	pattern := strings.Split(r.path[1:], "/")
	if len(pattern) != len(segments) {
		return "", false
	}
	for i, raw := range pattern {
		text, err := url.PathUnescape(raw)
		if j.rawRows || err != nil {
			text = raw
		}
		letter := "l"
		switch {
		case strings.HasPrefix(raw, "{"):
			if letter = "p"; segments[i] == "" {
				return "", false
			}
		case segments[i] != text:
			return "", false
		}
		if j.fromTheRight {
			shape = letter + shape
		} else {
			shape += letter
		}
	}
	return shape, true
}

// outcomeOfSegments returns the outcome of a request with these segments and a token of the scope.
func (j judge) outcomeOfSegments(segments []string, scope string) string {
	switch r, ok := j.row(segments); {
	case !ok:
		return wire.NoRoute
	case r.scope == "" || r.scope == scope || scope == everything:
		return "allow"
	}
	return "403 FORBIDDEN missing_scope"
}

// outcome returns the outcome of a target that Envoy does not change.
func (j judge) outcome(target, scope string) string {
	segments, ok := j.segments(target)
	if !ok {
		return wire.NoRoute
	}
	return j.outcomeOfSegments(segments, scope)
}

// These are the faults that a trial can have.
const (
	leaked        = "a request reached an upstream without an allow"
	notOnce       = "an allowed request did not reach its upstream exactly once"
	twoReadings   = "the path of an allowed request can be read in two ways"
	otherSegments = "the upstream of an allowed request reads other segments than the client encoded in the target"
	otherRoute    = "the upstream serves a route for which the token of the allowed request has no permission"
	otherDirect   = "a direct check has another outcome than the table requires"
	otherOutcome  = "a request through Envoy has another outcome than the table requires"
	otherSpelling = "another spelling of the path has another outcome"
	unsendable    = "Envoy refuses a path that is in the table"
)

// faults maps each fault to the trials that have this fault.
func (j judge) faults(trials []trial) map[string][]trial {
	found := make(map[string][]trial)
	outcomes := make(map[string]string) // scope and segments → outcome of the first spelling
	for _, one := range trials {
		// A gRPC message cannot contain a target that is not UTF-8.
		wrong := map[string]bool{otherDirect: utf8.ValidString(one.target) && one.direct != j.outcome(one.target, one.scope)}
		j.judgeAllowed(one, wrong)
		for _, p := range one.throughEnvoy {
			switch {
			case p.isRefused():
				// Only targets without a query count here, because Envoy may refuse a request because of its query.
				wrong[unsendable] = wrong[unsendable] || !strings.Contains(one.target, "?") && j.outcome(one.target, one.scope) != wire.NoRoute
			case one.segments != nil:
				path := fmt.Sprintf("%s %q", one.scope, one.segments)
				if outcomes[path] == "" {
					outcomes[path] = p.outcome
				}
				wrong[otherSpelling] = wrong[otherSpelling] || p.outcome != outcomes[path]
				wrong[otherOutcome] = wrong[otherOutcome] || p.outcome != j.outcome(one.target, one.scope)
			}
		}
		for fault, is := range wrong {
			if is {
				found[fault] = append(found[fault], one)
			}
		}
	}
	return found
}

// judgeAllowed checks which requests the upstreams received, and how the upstreams read the paths.
func (j judge) judgeAllowed(one trial, wrong map[string]bool) {
	wantReached := make(map[string]int64) // upstream → requests
	var read []string                     // the segments that the first upstream has read
	for i, p := range one.throughEnvoy {
		if p.outcome != "allow" {
			continue
		}
		at := p.reading
		row, found := j.row(at.Segments)
		server := "python"
		if i == 0 || found && row.scope == "" { // on a public route, the sidecar reads no credential, so Envoy always uses the live upstream
			server = "go"
		}
		wantReached[server]++
		if read == nil {
			read = at.Segments
		}
		for fault, is := range map[string]bool{
			notOnce:       at.Upstream != server,
			twoReadings:   len(read) == 0 || !slices.Equal(at.Segments, read) || !slices.Equal(at.Whole, read) || !slices.Equal(at.Twice, read),
			otherSegments: one.segments != nil && !slices.Equal(at.Segments, one.segments),
			otherRoute:    j.outcomeOfSegments(at.Segments, one.scope) != "allow" || j.outcome(at.Path, one.scope) != "allow",
		} {
			wrong[fault] = wrong[fault] || is
		}
	}
	for server, arrived := range one.reached {
		wrong[leaked] = wrong[leaked] || arrived > 0 && wantReached[server] == 0
		wrong[notOnce] = wrong[notOnce] || wantReached[server] > 0 && arrived != wantReached[server]
	}
}
