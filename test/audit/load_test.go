package audit

import (
	"context"
	"math/rand/v2"
	"time"
)

// read sends checks to one sidecar until the context ends.
func (w *world) read(ctx context.Context, sidecar int, r *rand.Rand) {
	s := w.sidecars[sidecar]
	tick := time.NewTicker(w.pace)
	defer tick.Stop()
	var sent []request
	defer func() { w.history.addRequests(sent) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		subject, ok := w.pick(sidecar, r)
		if !ok {
			continue
		}
		q := request{subject: subject, sidecar: sidecar, start: w.now()}
		q.outcome = s.check(context.WithoutCancel(ctx), w.subjects[subject].request)
		q.end = w.now()
		sent = append(sent, q)
		if q.outcome == unavailable {
			s.last503.Store(int64(q.end))
		}
	}
}

// pick chooses the subject of a check. Half of the checks are for subjects that changed a short time ago, or are about to
// change. Within the bound after a change, both answers are correct. So pick allows only few checks of such a subject, and
// limits their share of all checks. Most of the allowed checks go to the sidecar that a fault affects, because that sidecar's
// answers show the worst staleness.
func (w *world) pick(sidecar int, r *rand.Rand) (subject int, ok bool) {
	const perMille = 7
	oneIn := 8
	switch w.affected.Load() {
	case 0:
	case int32(sidecar + 1):
		oneIn = 2
	default:
		oneIn = 64
	}
	for range 10 {
		subject = r.IntN(len(w.subjects))
		if f := w.focus.Load(); f != nil && len(*f) > 0 && r.IntN(2) == 0 {
			subject = (*f)[r.IntN(len(*f))]
		}
		sent := w.checks.Load()
		if int64(w.now()) < w.ambiguousUntil[subject].Load() {
			if r.IntN(oneIn) != 0 || w.ambiguous.Load()*1000 >= sent*perMille {
				continue
			}
			w.ambiguous.Add(1)
		}
		w.checks.Add(1)
		return subject, true
	}
	return 0, false
}
