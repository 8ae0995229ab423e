package cache_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/keywicket/keywicket/authz"
)

// checkAnswers checks the requests that have ended, and returns a description of the first wrong answer.
func (m *model) checkAnswers() (wrong string) {
	m.requests = slices.DeleteFunc(m.requests, func(r *request) bool {
		select {
		case <-r.done:
			wrong = cmp.Or(wrong, m.violation(r))
			return true
		default:
			return false
		}
	})
	return wrong
}

// violation describes the invariant that an answer violates, or returns "".
func (m *model) violation(r *request) string {
	if r.err != nil {
		return r.violationOfError()
	}
	m.counts[r.found.Cache]++
	latest := len(m.states) - 1
	for latest >= 0 && !m.wouldAnswer(m.states[latest], r) {
		latest--
	}
	description := fmt.Sprintf("step %d: the answer to %s is %s", r.step, r.lookup, show(r.found))
	switch {
	case latest < 0:
		return "I4 or I5: " + description + ", which the database gives in no state"
	case latest < r.readState:
		return "I1: " + description + ", although the cache had read the changes of a later state"
	case latest < r.overdueState:
		return "I2: " + description + ", although a later state was older than the staleness bound"
	case r.found.Denial == "" && r.at >= m.states[latest].expires(r.lookup.token):
		return "I3: " + description + ", although it had expired"
	}
	return ""
}

func (r *request) violationOfError() string {
	var database databaseError
	switch {
	case !reflect.DeepEqual(r.found, authz.LookupResult{}):
		return fmt.Sprintf("I5: step %d: %s got an error and an answer", r.step, r.lookup)
	case errors.As(r.err, &database) && database.step >= r.step:
		return ""
	case r.canceled && errors.Is(r.err, context.Canceled):
		return ""
	}
	return fmt.Sprintf("I5: step %d: %s got the error of another look-up: %v", r.step, r.lookup, r.err)
}

func show(f authz.LookupResult) string {
	if f.Denial != "" {
		return string(f.Denial)
	}
	return fmt.Sprintf("%s %q as %q in %q", f.Principal.ID, f.Principal.Scopes, f.Workspace.Role, f.Workspace.Slug)
}

// wouldAnswer reports whether the database, in the state s, would give the same answer now or would have given it earlier.
func (m *model) wouldAnswer(s state, r *request) bool {
	t := s.tokens[r.lookup.token]
	if r.found.Denial == authz.ReasonExpired {
		// The cache may deny a token as expired before its expiry, but earlier by at most the duration of a load.
		return t.exists && !t.revoked && m.now() >= s.expires(r.lookup.token)-m.slowest
	}
	found, _ := s.found(r.lookup.lookup(m.suffix), m.suffix)
	found.Cache = r.found.Cache
	return reflect.DeepEqual(r.found, found)
}
