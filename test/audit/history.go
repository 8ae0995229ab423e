package audit

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// outcome is a set of results. A request has exactly one result. While nobody knows whether a change was committed, the set
// contains all possible results.
type outcome uint8

const (
	allow outcome = 1 << iota
	unauthorized
	forbidden
	unavailable // 503, or no answer, which is a 503 to Envoy's client
	otherAnswer // any other answer
)

// unknown is the outcome as long as nobody knows whether a change was committed.
const unknown = allow | unauthorized | forbidden

func (o outcome) String() string {
	var names []string
	for i, name := range []string{"allow", "401", "403", "503", "another answer"} {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

func (o outcome) certain() bool { return o&(o-1) == 0 }

// All times count from the beginning of the history, on one monotonic clock.
const (
	never         = time.Duration(math.MaxInt64)
	beforeHistory = time.Duration(math.MinInt64 / 2)
)

// change is a change of the outcome of one subject (a credential and a request that uses the credential).
type change struct {
	changeKind string
	sent       time.Duration // when the change was sent: no sidecar can have read the change before this time
	answered   time.Duration // when the database answered COMMIT, or the audit read the changed rows back; `never` if neither happened
	after      outcome
}

// request is a check that has ended.
type request struct {
	subject, sidecar int
	start, end       time.Duration
	outcome          outcome
}

// span is the time from the beginning of one fault to the beginning of the next.
type span struct {
	fault              string
	begin, healed, end time.Duration
}

// history records changes, requests and faults. The changes of a subject are in the order in which they took effect.
type history struct {
	mu       sync.Mutex
	changes  [][]change // the changes of each subject
	requests []request
	spans    []span
}

// newHistory returns a history that begins with the first outcome of each subject.
func newHistory(first []outcome) *history {
	h := &history{changes: make([][]change, len(first))}
	for i, o := range first {
		h.changes[i] = []change{{changeKind: "start", sent: beforeHistory, answered: beforeHistory, after: o}}
	}
	return h
}

func (h *history) addChange(subject int, c change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes[subject] = append(h.changes[subject], c)
}

// current returns the outcome that each subject must get now.
func (h *history) current() []outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]outcome, len(h.changes))
	for i, changes := range h.changes {
		all[i] = changes[len(changes)-1].after
	}
	return all
}

func (h *history) addRequests(requests []request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, requests...)
}

func (h *history) addSpan(s span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spans = append(h.spans, s)
}

// faultAt returns the fault at time t: the fault in progress, or the fault that was healed last. faultAt treats each fault as
// if it began earlier, by the duration `early`. A fault can cause a wrong answer about a change that was made just before the
// fault.
func (h *history) faultAt(t, early time.Duration) string {
	i, _ := slices.BinarySearchFunc(h.spans, t, func(s span, t time.Duration) int { return cmp.Compare(s.begin-early, t) })
	// i is the index of the first span that begins at t or later.
	if i < len(h.spans) && h.spans[i].begin-early == t {
		return h.spans[i].fault
	}
	if i == 0 {
		return noFaultName
	}
	return h.spans[i-1].fault
}

// noFaultName is the name of the time without a fault.
const noFaultName = "none"
