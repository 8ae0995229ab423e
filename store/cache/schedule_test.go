package cache_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// op is the operation of a step. A load is a call of the method Load of cache.Source. A reading is a poll of the change log,
// with its reply. If an operation needs a load, a transaction or a reading, it uses one that is in progress. In the list
// below, some operations have two effects. If the step's field b is not 0, the operation has the effect before "(b)",
// otherwise the other effect.
type op string

const (
	startLookup  op = "look up"  // a look-up begins; its loads return immediately (b), or wait for later steps
	query        op = "query"    // the SELECT of a load is executed
	answer       op = "answer"   // a load returns the result of its SELECT
	fail         op = "fail"     // a load returns an error
	cancelLookup op = "cancel"   // the context of a look-up is canceled
	alter        op = "alter"    // a transaction makes one change and commits
	begin        op = "begin"    // a transaction makes a change, and stays open
	write        op = "write"    // the open transaction that began last makes another change
	commit       op = "commit"   // an open transaction commits
	rollback     op = "rollback" // an open transaction is rolled back
	clean        op = "clean"    // the log is cleaned immediately (b), or by a transaction that stays open
	bypass       op = "bypass"   // a transaction that bypasses the triggers makes a change and commits
	disable      op = "disable"  // the triggers are disabled, or enabled if they are disabled
	restore      op = "restore"  // a failover: a new server replaces the old server, and the last commits may be lost
	poll         op = "poll"     // the cache begins a reading; the database executes it and replies immediately (b), or in later steps
	read         op = "read"     // the database executes a reading
	reply        op = "reply"    // a reply arrives, and extends the lease, or does not extend it (b)
	drop         op = "drop"     // a reading, or its reply, is lost
	verify       op = "verify"   // a sidecar verifies the schema
	hint         op = "hint"     // the next notification arrives, or is lost (b)
	pass         op = "pass"     // time passes: a given duration (b), or a random element of the variable durations
)

type step struct {
	op op
	// a selects the object of the operation, such as a look-up, a change, a load or a reading. For restore, a is the number of lost
	// commits. If b is not 0, it selects the effect before "(b)". For pass, b also selects the duration.
	a, b int
}

func (s step) String() string {
	switch s.op {
	case startLookup:
		return fmt.Sprintf("look up %s%s", modelLookups[s.a%len(modelLookups)], s.ifB(", and load"))
	case alter:
		return changes[s.a%len(changes)].name
	case begin, write, bypass:
		return fmt.Sprintf("%s: %s", s.op, changes[s.a%len(changes)].name)
	case pass:
		return fmt.Sprintf("pass %v", s.duration())
	case clean:
		return "clean" + s.ifB(", and commit")
	case poll:
		return "poll" + s.ifB(", read and reply")
	case reply:
		return fmt.Sprintf("reply %d%s", s.a, s.ifB(", which does not extend the lease"))
	case hint:
		return "hint" + s.ifB(" is lost")
	case query, answer, fail, cancelLookup, commit, rollback, restore, read, drop:
		return fmt.Sprintf("%s %d", s.op, s.a)
	}
	return string(s.op)
}

func (s step) duration() time.Duration {
	if s.b != 0 {
		return durations[s.b-1]
	}
	return durations[s.a%len(durations)]
}

func (s step) ifB(words string) string {
	if s.b == 0 {
		return ""
	}
	return words
}

type schedule []step

func (s schedule) String() string {
	lines := make([]string, len(s))
	for i, step := range s {
		lines[i] = fmt.Sprintf("  %2d. %s", i+1, step)
	}
	return strings.Join(lines, "\n")
}

// durations are close to the end of a lease and to the expiry of a token. The last duration is longer than all other limits, such
// as MaxAge.
var durations = []time.Duration{
	bound / 4, bound + time.Millisecond, bound / 2, 2 * bound,
	bound, bound - time.Millisecond, time.Millisecond, 61 * bound,
}

// These values of the field b select a duration: each is an index in durations, plus one.
const (
	quarter = 1
	half    = 3
	almost  = 6
)

// topic is the subject of a schedule: a few look-ups, and changes. Some of the changes affect the look-ups, and others only write
// to the log. The numbers are indexes in the variables modelLookups and changes.
type topic struct{ lookups, changes []int }

var topics = []topic{
	{[]int{0}, []int{0, 10}},       // a workspace's token is revoked
	{[]int{2}, []int{8, 4}},        // a workspace that is requested by its slug
	{[]int{1, 2}, []int{2, 10, 4}}, // a user's membership
	{[]int{0, 4}, []int{5, 0}},     // expiry
	{[]int{3}, []int{3, 10}},       // a token that does not exist yet
	{[]int{0, 1}, []int{9, 2}},     // a change of all tokens
	{[]int{2, 1, 5}, []int{7, 8, 6, 4}},
	{[]int{0, 1, 2, 3, 4, 5}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
}

// phrases are sequences of steps that often occur together. The most frequent sequences come first, because rapid prefers the
// first elements of a list. Each long sequence leads to a rare situation. In this situation, the cache returns a wrong answer if
// one of its safety mechanisms is missing.
var phrases = [][]step{
	{{op: startLookup, b: 1}},
	{{op: poll, b: 1}},
	{{op: alter}},
	{{op: pass}, {op: poll, b: 1}},
	{{op: startLookup}, {op: query}},
	{{op: answer}},
	{{op: alter}, {op: poll, b: 1}, {op: startLookup, b: 1}},
	{{op: begin}},
	{{op: commit}},
	{{op: pass}},
	{{op: startLookup}},
	{{op: query}},
	{{op: poll}},
	{{op: read}},
	{{op: reply}},
	{{op: startLookup, b: 1}, {op: alter}, {op: pass}, {op: startLookup, b: 1}},
	{{op: pass, b: half}, {op: startLookup, b: 1}, {op: poll}, {op: read}, {op: alter}, {op: pass}, {op: reply}, {op: pass}, {op: startLookup, b: 1}},
	{{op: startLookup, b: 1}, {op: begin}, {op: alter}, {op: poll, b: 1}, {op: commit}, {op: poll, b: 1}, {op: startLookup, b: 1}},
	{{op: poll, b: 1}, {op: startLookup, b: 1}, {op: bypass}, {op: pass, b: quarter}, {op: poll, b: 1}, {op: pass, b: almost}, {op: startLookup, b: 1}},
	{{op: startLookup, b: 1}, {op: alter}, {op: pass}, {op: clean, b: 1}, {op: poll, b: 1}, {op: startLookup, b: 1}},
	{{op: alter}, {op: clean, b: 1}, {op: clean, b: 1}},
	{{op: startLookup, b: 1}, {op: alter}, {op: pass}, {op: hint}, {op: startLookup, b: 1}},
	{{op: alter}, {op: poll, b: 1}, {op: poll}, {op: restore}, {op: pass, b: half}, {op: poll, b: 1},
		{op: startLookup, b: 1}, {op: alter}, {op: reply}, {op: poll, b: 1}, {op: startLookup, b: 1}},
	{{op: verify}},
	{{op: bypass}},
	{{op: restore}},
	{{op: drop}},
	{{op: clean, b: 1}},
	{{op: clean}},
	{{op: write}},
	{{op: rollback}},
	{{op: hint}},
	{{op: hint, b: 1}},
	{{op: disable}},
	{{op: reply, b: 1}},
	{{op: fail}},
	{{op: cancelLookup}},
}

// schedules draws random schedules. Most of the schedules begin with a reading of the log, so that the lease of the cache is
// valid.
var schedules = rapid.Custom(func(t *rapid.T) (s schedule) {
	topic := rapid.SampledFrom(topics).Draw(t, "topic")
	if rapid.IntRange(0, 3).Draw(t, "beginning") != 3 {
		s = append(s, step{op: poll, b: 1})
	}
	for _, phrase := range rapid.SliceOfN(rapid.SampledFrom(phrases), 40, 40).Draw(t, "phrases") {
		for _, step := range phrase {
			switch step.op {
			case startLookup:
				step.a = rapid.SampledFrom(topic.lookups).Draw(t, "look-up")
			case alter, begin, write, bypass:
				step.a = rapid.SampledFrom(topic.changes).Draw(t, "change")
			default:
				step.a = rapid.IntRange(0, 7).Draw(t, "which")
			}
			s = append(s, step)
		}
	}
	return s
})

// minimize removes steps from the schedule, as long as the parameter `bad` returns true for the shorter schedule.
func minimize(s schedule, bad func(schedule) bool) schedule {
	for n := len(s) / 2; n > 0; n /= 2 {
		for i := 0; i+n <= len(s); {
			if shorter := slices.Delete(slices.Clone(s), i, i+n); bad(shorter) {
				s = shorter
			} else {
				i++
			}
		}
	}
	return s
}
