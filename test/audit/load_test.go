package audit

import (
	"context"
	"math/rand/v2"
	"time"
)

// sendChecks sends checks to one sidecar until the context ends.
func (d *deployment) sendChecks(ctx context.Context, sidecar int, r *rand.Rand) {
	s := d.sidecars[sidecar]
	tick := time.NewTicker(d.checkInterval)
	defer tick.Stop()
	var sent []request
	defer func() { d.history.addRequests(sent) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		subject, ok := d.pickSubject(sidecar, r)
		if !ok {
			continue
		}
		q := request{subject: subject, sidecar: sidecar, start: d.now()}
		q.outcome = s.check(context.WithoutCancel(ctx), d.subjects[subject].request)
		q.end = d.now()
		sent = append(sent, q)
		if q.outcome == unavailable {
			s.last503.Store(int64(q.end))
		}
	}
}

// pickSubject first chooses a subject. Half of the choices are subjects that changed a short time ago or will change soon.
// Within the bound after a change, two answers are correct, and a check of the subject proves little. So pickSubject drops most
// of these choices: at most 0.7 % of all checks are such checks. It keeps more of them for the sidecar that a fault affects,
// because that sidecar's answers show the worst staleness.
func (d *deployment) pickSubject(sidecar int, r *rand.Rand) (subject int, ok bool) {
	const maxPerMille = 7
	keepOneIn := 8
	switch d.affectedSidecar.Load() {
	case 0:
	case int32(sidecar + 1):
		keepOneIn = 2
	default:
		keepOneIn = 64
	}
	for range 10 {
		subject = r.IntN(len(d.subjects))
		if f := d.focus.Load(); f != nil && len(*f) > 0 && r.IntN(2) == 0 {
			subject = (*f)[r.IntN(len(*f))]
		}
		sent := d.checks.Load()
		if int64(d.now()) < d.ambiguousUntil[subject].Load() {
			if r.IntN(keepOneIn) != 0 || d.ambiguous.Load()*1000 >= sent*maxPerMille {
				continue
			}
			d.ambiguous.Add(1)
		}
		d.checks.Add(1)
		return subject, true
	}
	return 0, false
}
