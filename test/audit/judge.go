package audit

import "time"

// verdict is the result of judging an answer. violation and wrongDenial are the failures that the audit searches for.
type verdict uint8

const (
	correct     verdict = iota
	violation           // an allow that the function judge does not accept
	wrongDenial         // a 401 or 403 that the function judge does not accept
	noAnswer            // 503
	unexpected          // any other answer
)

// judgement is the judge's result for one request.
type judgement struct {
	verdict   verdict
	ambiguous bool // several outcomes are correct
	// cause is the index, in the subject's changes, of the last change that the answer had to reflect.
	cause int
	// late is the time from the database's answer to that change until the start of the request.
	late time.Duration
}

// judge compares a request with the changes of its subject. An answer is correct if it matches the state at the time
// r.start-bound. An answer is also correct if it matches a later state whose change was sent before the request's end.
func judge(changes []change, r request, bound time.Duration) judgement {
	current := len(changes) - 1
	for current > 0 && changes[current].answered > r.start-bound {
		current--
	}
	accepted := changes[current].after
	for _, c := range changes[current+1:] {
		if c.sent < r.end {
			accepted |= c.after
		}
	}
	j := judgement{ambiguous: !accepted.certain(), cause: current, late: r.start - changes[current].answered}
	switch {
	case r.outcome == unavailable:
		j.verdict = noAnswer
	case r.outcome == otherAnswer:
		j.verdict = unexpected
	case r.outcome&accepted != 0:
		j.verdict = correct
	case r.outcome == allow:
		j.verdict = violation
	default:
		j.verdict = wrongDenial
	}
	return j
}

// staleness returns, for each change of a subject, the time from the database's answer to the change until the start of the
// last request that still got the old outcome. The time is 0 if no request got the old outcome, or if the old outcome cannot be
// distinguished from the new one.
func staleness(changes []change, requests []request) []time.Duration {
	worst := make([]time.Duration, len(changes))
	for i := 1; i < len(changes); i++ {
		old, c := changes[i-1].after, changes[i]
		if !old.certain() || !c.after.certain() || old == c.after || c.answered == never {
			continue
		}
		next := never
		if i+1 < len(changes) {
			next = changes[i+1].sent
		}
		for _, r := range requests {
			if r.outcome == old && r.start > c.answered && r.end < next {
				worst[i] = max(worst[i], r.start-c.answered)
			}
		}
	}
	return worst
}
