package cache_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// op is what a step does. Those of loads, of transactions and of readings apply to one of several that wait.
type op string

const (
	ask      op = "ask"      // a question, for which loads are answered at once (b), or wait for the next steps
	query    op = "query"    // a load has its SELECT done
	answer   op = "answer"   // a load returns what its SELECT found
	fail     op = "fail"     // a load returns an error
	leave    op = "leave"    // who asked does not want to know any more
	alter    op = "alter"    // a transaction of one change commits
	begin    op = "begin"    // a transaction makes a change, and stays open
	write    op = "write"    // the transaction that began last makes another one
	commit   op = "commit"   // an open transaction commits
	rollback op = "rollback" // an open transaction ends, and has done nothing
	clean    op = "clean"    // the log is cleaned at once (b), or by a transaction that stays open
	bypass   op = "bypass"   // a transaction that makes a change past the triggers commits
	disable  op = "disable"  // the triggers are disabled, or enabled
	restore  op = "restore"  // another server takes over, without the last commits
	poll     op = "poll"     // a reading of the log is sent, and done and told at once (b), or later
	read     op = "read"     // the database does a reading
	reply    op = "reply"    // the reply arrives, late or not; the sidecar may not believe it (b)
	lose     op = "lose"     // a reading, or its reply, is lost
	verify   op = "verify"   // somebody looks at the schema
	hint     op = "hint"     // the next notification arrives, or is lost (b)
	pass     op = "pass"     // time, a certain one (b) or any
)

type step struct {
	op   op
	a, b int
}

func (s step) String() string {
	switch s.op {
	case ask:
		return fmt.Sprintf("ask %s%s", questions[s.a%len(questions)], s.ifB(", and load"))
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
		return fmt.Sprintf("reply %d%s", s.a, s.ifB(" of a sidecar that is gone"))
	case hint:
		return "hint" + s.ifB(" is lost")
	case query, answer, fail, leave, commit, rollback, restore, read, lose:
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

// durations are around what matters to a lease and to an expiry; the last one is beyond everything.
var durations = []time.Duration{
	bound / 4, bound + time.Millisecond, bound / 2, 2 * bound,
	bound, bound - time.Millisecond, time.Millisecond, 61 * bound,
}

// Places in durations, and one more.
const (
	quarter = 1
	half    = 3
	almost  = 6
)

// topic is what one schedule is about: a few questions, and changes that matter to them or write to the log beside them. The
// numbers are places in questions and changes.
type topic struct{ questions, changes []int }

var topics = []topic{
	{[]int{0}, []int{0, 10}},       // a workspace's token is revoked
	{[]int{2}, []int{8, 4}},        // a workspace that is named by its slug
	{[]int{1, 2}, []int{2, 10, 4}}, // a user's membership
	{[]int{0, 4}, []int{5, 0}},     // expiry
	{[]int{3}, []int{3, 10}},       // a token that is not there yet
	{[]int{0, 1}, []int{9, 2}},     // all at once
	{[]int{2, 1, 5}, []int{7, 8, 6, 4}},
	{[]int{0, 1, 2, 3, 4, 5}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
}

// phrases are steps that often follow one another, in order of how often they come: rapid prefers the first ones. The later
// ones that are long lead to where a protection matters that is rarely needed.
var phrases = [][]step{
	{{op: ask, b: 1}},
	{{op: poll, b: 1}},
	{{op: alter}},
	{{op: pass}, {op: poll, b: 1}},
	{{op: ask}, {op: query}},
	{{op: answer}},
	{{op: alter}, {op: poll, b: 1}, {op: ask, b: 1}},
	{{op: begin}},
	{{op: commit}},
	{{op: pass}},
	{{op: ask}},
	{{op: query}},
	{{op: poll}},
	{{op: read}},
	{{op: reply}},
	{{op: ask, b: 1}, {op: alter}, {op: pass}, {op: ask, b: 1}},
	{{op: pass, b: half}, {op: ask, b: 1}, {op: poll}, {op: read}, {op: alter}, {op: pass}, {op: reply}, {op: pass}, {op: ask, b: 1}},
	{{op: ask, b: 1}, {op: begin}, {op: alter}, {op: poll, b: 1}, {op: commit}, {op: poll, b: 1}, {op: ask, b: 1}},
	{{op: poll, b: 1}, {op: ask, b: 1}, {op: bypass}, {op: pass, b: quarter}, {op: poll, b: 1}, {op: pass, b: almost}, {op: ask, b: 1}},
	{{op: ask, b: 1}, {op: alter}, {op: pass}, {op: clean, b: 1}, {op: poll, b: 1}, {op: ask, b: 1}},
	{{op: alter}, {op: clean, b: 1}, {op: clean, b: 1}},
	{{op: ask, b: 1}, {op: alter}, {op: pass}, {op: hint}, {op: ask, b: 1}},
	{{op: alter}, {op: poll, b: 1}, {op: poll}, {op: restore}, {op: pass, b: half}, {op: poll, b: 1},
		{op: ask, b: 1}, {op: alter}, {op: reply}, {op: poll, b: 1}, {op: ask, b: 1}},
	{{op: verify}},
	{{op: bypass}},
	{{op: restore}},
	{{op: lose}},
	{{op: clean, b: 1}},
	{{op: clean}},
	{{op: write}},
	{{op: rollback}},
	{{op: hint}},
	{{op: hint, b: 1}},
	{{op: disable}},
	{{op: reply, b: 1}},
	{{op: fail}},
	{{op: leave}},
}

// schedules mostly begin with a cache that is in use.
var schedules = rapid.Custom(func(t *rapid.T) (s schedule) {
	topic := rapid.SampledFrom(topics).Draw(t, "topic")
	if rapid.IntRange(0, 3).Draw(t, "beginning") != 3 {
		s = append(s, step{op: poll, b: 1})
	}
	for _, phrase := range rapid.SliceOfN(rapid.SampledFrom(phrases), 40, 40).Draw(t, "phrases") {
		for _, step := range phrase {
			switch step.op {
			case ask:
				step.a = rapid.SampledFrom(topic.questions).Draw(t, "question")
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

// minimal leaves out of a schedule what it can and still be bad.
func minimal(s schedule, bad func(schedule) bool) schedule {
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
