package cache_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// op is what a step does. Those of loads, of sending and of hearing apply to one of several that wait.
type op string

const (
	ask     op = "ask"     // a question, for which loads are answered at once (b), or wait for the next steps
	query   op = "query"   // a load has its SELECT done
	answer  op = "answer"  // a load returns what its SELECT found
	fail    op = "fail"    // a load returns an error
	leave   op = "leave"   // who asked does not want to know any more
	alter   op = "alter"   // a transaction commits
	beat    op = "beat"    // a nonce is made, and sent at once (b), or later
	send    op = "send"    // a nonce is sent
	deliver op = "deliver" // messages of the feed reach the cache, all (b) or some
	connect op = "connect" // the feed's connection is there; if not the first, this is a message too
	start   op = "start"   // the cache learns of the first connection
	cut     op = "cut"     // the connection is lost
	notice  op = "notice"  // the cache learns that it is
	pass    op = "pass"    // time
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
	case pass:
		return fmt.Sprintf("pass %v", durations[s.a%len(durations)])
	case beat:
		return "beat" + s.ifB(", and send")
	case deliver:
		return cmp.Or(s.ifB("deliver all"), fmt.Sprintf("deliver %d", s.a+1))
	case query, answer, fail, leave, send, cut:
		return fmt.Sprintf("%s %d", s.op, s.a)
	}
	return string(s.op)
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

// topic is what one schedule is about: a few questions, and changes that matter to them. The numbers are places in
// questions and changes.
type topic struct{ questions, changes []int }

var topics = []topic{
	{[]int{0}, []int{0}},       // a workspace's token is revoked
	{[]int{2}, []int{8, 4}},    // a workspace that is named by its slug
	{[]int{1, 2}, []int{2, 4}}, // a user's membership
	{[]int{0, 4}, []int{5, 0}}, // expiry
	{[]int{3}, []int{3}},       // a token that is not there yet
	{[]int{0, 1}, []int{9, 2}}, // all at once
	{[]int{2, 1, 5}, []int{7, 8, 6, 4}},
	{[]int{0, 1, 2, 3, 4, 5}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
}

// phrases are steps that often follow one another, in order of how often they come: rapid prefers the first ones.
var phrases = [][]step{
	{{op: ask, b: 1}},
	heartbeat,
	{{op: alter}},
	{{op: deliver}},
	{{op: ask}, {op: query}},
	{{op: answer}},
	slices.Concat([]step{{op: pass}}, heartbeat),
	{{op: alter}, {op: deliver, b: 1}},
	{{op: ask}},
	{{op: query}},
	{{op: cut}, {op: notice}},
	slices.Concat([]step{{op: connect}, {op: deliver, b: 1}}, heartbeat),
	{{op: beat, b: 1}, {op: alter}, {op: pass}, {op: deliver}},
	{{op: pass}},
	{{op: beat, b: 1}},
	{{op: cut}},
	{{op: notice}},
	{{op: connect}},
	{{op: beat}},
	{{op: send}},
	{{op: deliver, b: 1}},
	{{op: fail}},
	{{op: leave}},
	{{op: start}},
}

var heartbeat = []step{{op: beat, b: 1}, {op: deliver, b: 1}}

// schedules mostly begin with a cache that is in use.
var schedules = rapid.Custom(func(t *rapid.T) (s schedule) {
	topic := rapid.SampledFrom(topics).Draw(t, "topic")
	if rapid.IntRange(0, 3).Draw(t, "beginning") != 3 {
		s = append(s, step{op: connect}, step{op: start})
		s = append(s, heartbeat...)
	}
	for _, phrase := range rapid.SliceOfN(rapid.SampledFrom(phrases), 40, 40).Draw(t, "phrases") {
		for _, step := range phrase {
			switch step.op {
			case ask:
				step.a = rapid.SampledFrom(topic.questions).Draw(t, "question")
			case alter:
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
