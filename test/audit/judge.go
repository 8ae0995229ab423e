package audit

import "time"

// fault of an answer. The first two are the ones that count.
type verdict uint8

const (
	right       verdict = iota
	violation           // an allow that no state within the bound explains
	wrongDenial         // a 401 or 403 that none explains
	noAnswer            // 503
	odd                 // an answer that is none of these
)

// judgement is what a judge says of one request.
type judgement struct {
	verdict   verdict
	ambiguous bool // states within the bound disagree
	// cause is the change that should have been known, as an index of the subject's changes.
	cause int
	// late is from the answer to that change until the start of the request.
	late time.Duration
}

// judge holds a request to the changes of its subject. Right is the answer of the state that was current so long before the
// request's start as the bound allows, and of each later state whose change was sent before the request's end.
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
	case r.outcome == strange:
		j.verdict = odd
	case r.outcome&accepted != 0:
		j.verdict = right
	case r.outcome == allow:
		j.verdict = violation
	default:
		j.verdict = wrongDenial
	}
	return j
}

// staleness is, for each change of a subject, from its answer until the start of the last request that still got the old
// answer. It is 0 where none did, and where the old answer cannot be told from the new one.
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
