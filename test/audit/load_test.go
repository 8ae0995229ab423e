package audit

import (
	"context"
	"math/rand/v2"
	"time"
)

// read asks one sidecar until the context ends.
func (w *world) read(ctx context.Context, sidecar int, r *rand.Rand) {
	s := w.sidecars[sidecar]
	tick := time.NewTicker(w.pace)
	defer tick.Stop()
	var asked []request
	defer func() { w.history.asked(asked) }()
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
		asked = append(asked, q)
		if q.outcome == unavailable {
			s.trouble.Store(int64(q.end))
		}
	}
}

// pick chooses whom to ask for: half of the requests are for those who were changed a short time ago, or are about to be. Within
// the bound of a change both answers are right, so few of the requests are made then, and no more than there may be ambiguous: most of
// them to the sidecar that a fault is about, which is where to find how late an answer may be.
func (w *world) pick(sidecar int, r *rand.Rand) (subject int, ok bool) {
	const perMille = 7
	seldom := 8
	switch w.suspect.Load() {
	case 0:
	case int32(sidecar + 1):
		seldom = 2
	default:
		seldom = 64
	}
	for range 10 {
		subject = r.IntN(len(w.subjects))
		if f := w.focus.Load(); f != nil && len(*f) > 0 && r.IntN(2) == 0 {
			subject = (*f)[r.IntN(len(*f))]
		}
		asked := w.asked.Load()
		if int64(w.now()) < w.until[subject].Load() {
			if r.IntN(seldom) != 0 || w.ambiguous.Load()*1000 >= asked*perMille {
				continue
			}
			w.ambiguous.Add(1)
		}
		w.asked.Add(1)
		return subject, true
	}
	return 0, false
}
