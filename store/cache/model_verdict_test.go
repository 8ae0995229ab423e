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

// judge checks the requests that have ended, and returns what is wrong with the first wrong answer.
func (w *world) judge() (wrong string) {
	w.requests = slices.DeleteFunc(w.requests, func(r *request) bool {
		select {
		case <-r.done:
			wrong = cmp.Or(wrong, w.verdict(r))
			return true
		default:
			return false
		}
	})
	return wrong
}

// verdict returns which invariant an answer violates, or "".
func (w *world) verdict(r *request) string {
	if r.err != nil {
		return r.verdictOfError()
	}
	w.tally[r.found.Cache]++
	latest := len(w.states) - 1
	for latest >= 0 && !w.gives(w.states[latest], r) {
		latest--
	}
	asked := fmt.Sprintf("step %d asked %s, which was answered with %s", r.step, r.question, show(r.found))
	switch {
	case latest < 0:
		return "I4 or I5: " + asked + ", but the database never gave that answer"
	case latest < r.known:
		return "I1: " + asked + ", although the cache had read of a later state"
	case latest < r.late:
		return "I2: " + asked + ", although a later state was older than the bound"
	case r.found.Denial == "" && r.at >= w.states[latest].expires(r.question.token):
		return "I3: " + asked + ", although it had expired"
	}
	return ""
}

func (r *request) verdictOfError() string {
	var database databaseError
	switch {
	case !reflect.DeepEqual(r.found, authz.LookupResult{}):
		return fmt.Sprintf("I5: step %d asked %s, and an error came with an answer", r.step, r.question)
	case errors.As(r.err, &database) && database.step >= r.step:
		return ""
	case r.canceled && errors.Is(r.err, context.Canceled):
		return ""
	}
	return fmt.Sprintf("I5: step %d asked %s, and got an error that is not its own: %v", r.step, r.question, r.err)
}

func show(f authz.LookupResult) string {
	if f.Denial != "" {
		return string(f.Denial)
	}
	return fmt.Sprintf("%s %q as %q in %q", f.Principal.ID, f.Principal.Scopes, f.Workspace.Role, f.Workspace.Slug)
}

// gives reports whether the database would have given the answer in this state, at some time until now.
func (w *world) gives(s state, r *request) bool {
	t := s.tokens[r.question.token]
	if r.found.Denial == authz.ReasonExpired {
		// The cache never allows a token after its expiry. In return it may refuse it too early, by the duration of a load.
		return t.there && !t.revoked && w.now() >= s.expires(r.question.token)-w.slowest
	}
	found, _ := s.found(r.question.lookup(w.names), w.names)
	found.Cache = r.found.Cache
	return reflect.DeepEqual(r.found, found)
}
