package audit

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// outcome is a set of what may come of a request. A request has one; a state that is not known has several.
type outcome uint8

const (
	allow outcome = 1 << iota
	unauthorized
	forbidden
	unavailable // 503, or no answer, which is a 503 to Envoy's client
	strange     // anything else
)

// unknown is the state of a row whose change got no answer.
const unknown = allow | unauthorized | forbidden

func (o outcome) String() string {
	var names []string
	for i, name := range []string{"allow", "401", "403", "503", "strange"} {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

func (o outcome) certain() bool { return o&(o-1) == 0 }

// All times are since the history began, on one monotonic clock.
const (
	never  = time.Duration(math.MaxInt64)
	always = time.Duration(math.MinInt64 / 2)
)

// change is one of what a subject is answered.
type change struct {
	way      string
	sent     time.Duration // before this nobody could know of it
	answered time.Duration // COMMIT was answered, or the row was read; never, if neither
	after    outcome
}

// request is one that was answered.
type request struct {
	subject, sidecar int
	start, end       time.Duration
	outcome          outcome
}

// span is the time of one fault, until the next one begins.
type span struct {
	fault               string
	begin, healed, ends time.Duration
}

// history is what happened. Changes of one subject are in the order in which they took effect.
type history struct {
	mu       sync.Mutex
	changes  [][]change // by subject
	requests []request
	spans    []span
}

// newHistory begins with what each subject is answered at first.
func newHistory(first []outcome) *history {
	h := &history{changes: make([][]change, len(first))}
	for i, o := range first {
		h.changes[i] = []change{{way: "start", sent: always, answered: always, after: o}}
	}
	return h
}

func (h *history) changed(subject int, c change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes[subject] = append(h.changes[subject], c)
}

// now is what each subject is to be answered.
func (h *history) now() []outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]outcome, len(h.changes))
	for i, changes := range h.changes {
		all[i] = changes[len(changes)-1].after
	}
	return all
}

func (h *history) asked(requests []request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, requests...)
}

func (h *history) spanned(s span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spans = append(h.spans, s)
}

// faultAt is the fault that was under way, or had been healed last. Its time begins early: what was changed a little before a
// fault may be answered wrong because of it.
func (h *history) faultAt(t, early time.Duration) string {
	i, _ := slices.BinarySearchFunc(h.spans, t, func(s span, t time.Duration) int { return cmp.Compare(s.begin-early, t) })
	// i is the first that begins at t or later.
	if i < len(h.spans) && h.spans[i].begin-early == t {
		return h.spans[i].fault
	}
	if i == 0 {
		return quiet
	}
	return h.spans[i-1].fault
}

// quiet is the time without a fault.
const quiet = "none"
