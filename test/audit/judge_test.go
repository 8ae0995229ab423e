package audit

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// The whole audit depends on the judge. This test runs the judge on short histories with an obvious verdict.
func TestJudge(t *testing.T) {
	initial := change{sent: beforeHistory, answered: beforeHistory, after: allow}
	revoked := change{sent: 1000 * ms, answered: 1010 * ms, after: unauthorized}
	allowedAgain := change{sent: 5000 * ms, answered: 5010 * ms, after: allow}
	lost := change{sent: 5000 * ms, answered: never, after: unknown}
	read := change{sent: 5000 * ms, answered: 6000 * ms, after: unauthorized}

	cases := []struct {
		name      string
		changes   []change
		start     time.Duration
		end       time.Duration // 0: 1 ms after start
		outcome   outcome
		want      verdict
		ambiguous bool
		late      time.Duration
	}{
		{name: "nothing changes", changes: []change{initial}, start: 0, outcome: allow, want: correct},
		{name: "a denial without a reason", changes: []change{initial}, start: 0, outcome: unauthorized, want: wrongDenial},
		{name: "the old allow within the bound", changes: []change{initial, revoked}, start: 2009 * ms, outcome: allow,
			want: correct, ambiguous: true},
		{name: "a stale allow just after the bound", changes: []change{initial, revoked}, start: 2010 * ms, outcome: allow, want: violation, late: 1000 * ms},
		{name: "a stale allow long after the bound", changes: []change{initial, revoked}, start: 9010 * ms, outcome: allow, want: violation, late: 8000 * ms},
		{name: "the new answer before COMMIT is answered", changes: []change{initial, revoked}, start: 1001 * ms, outcome: unauthorized,
			want: correct, ambiguous: true},
		{name: "the new answer before the change is sent", changes: []change{initial, revoked}, start: 998 * ms, outcome: unauthorized, want: wrongDenial},
		{name: "a request that ends after the change was sent", changes: []change{initial, revoked}, start: 900 * ms, end: 1001 * ms,
			outcome: unauthorized, want: correct, ambiguous: true},
		{name: "a stale denial", changes: []change{initial, revoked, allowedAgain}, start: 6010 * ms, outcome: unauthorized, want: wrongDenial, late: 1000 * ms},
		{name: "a 403 instead of a 401", changes: []change{initial, revoked}, start: 3000 * ms, outcome: forbidden, want: wrongDenial, late: 1990 * ms},
		{name: "the state before the last two changes", changes: []change{initial, revoked, allowedAgain, {sent: 5100 * ms, answered: 5110 * ms, after: forbidden}},
			start: 5500 * ms, outcome: allow, want: correct, ambiguous: true},
		{name: "no answer", changes: []change{initial, revoked}, start: 3000 * ms, outcome: unavailable, want: noAnswer, late: 1990 * ms},
		{name: "an allow while the state is unknown", changes: []change{initial, revoked, lost, read}, start: 5900 * ms, outcome: allow,
			want: correct, ambiguous: true, late: 4890 * ms},
		{name: "the old answer after the row was read", changes: []change{initial, revoked, lost, read}, start: 7000 * ms, outcome: allow,
			want: violation, late: 1000 * ms},
		{name: "the old answer before the lost change was sent", changes: []change{initial, revoked, lost, read}, start: 4990 * ms, outcome: allow,
			want: violation, late: 3980 * ms},
		{name: "an unexpected answer", changes: []change{initial}, start: 0, outcome: otherAnswer, want: unexpected},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := request{start: c.start, end: c.end, outcome: c.outcome}
			if r.end == 0 {
				r.end = r.start + ms
			}
			got := judge(c.changes, r, time.Second)
			if got.verdict != c.want || got.ambiguous != c.ambiguous {
				t.Errorf("verdict %d, ambiguous %v; want %d, %v", got.verdict, got.ambiguous, c.want, c.ambiguous)
			}
			if c.late != 0 && got.late != c.late {
				t.Errorf("%v late, want %v", got.late, c.late)
			}
		})
	}
}

func TestStaleness(t *testing.T) {
	changes := []change{
		{sent: beforeHistory, answered: beforeHistory, after: allow},
		{sent: 1000 * ms, answered: 1010 * ms, after: unauthorized},
		{sent: 3000 * ms, answered: 3010 * ms, after: allow},
		{sent: 5000 * ms, answered: 5010 * ms, after: forbidden},
	}
	at := func(start time.Duration, o outcome) request {
		return request{start: start, end: start + ms, outcome: o}
	}
	got := staleness(changes, []request{
		at(500*ms, allow), at(1005*ms, allow), at(1100*ms, allow), at(1200*ms, unauthorized), at(1310*ms, allow),
		at(2000*ms, unauthorized), at(2999*ms, allow), // the last one ends when the next change is sent, so its answer may come from the next state
		at(3500*ms, unavailable), at(3600*ms, allow),
		at(5020*ms, allow), at(5030*ms, forbidden),
	})
	if want := []time.Duration{0, 300 * ms, 0, 10 * ms}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestReport(t *testing.T) {
	h := newHistory([]outcome{allow, unauthorized})
	h.addSpan(span{fault: "freeze", begin: 10 * time.Second, healed: 12 * time.Second, end: 15 * time.Second})
	h.addSpan(span{fault: noFaultName, begin: 15 * time.Second, healed: 15 * time.Second, end: 20 * time.Second})
	at := func(subject int, start time.Duration, o outcome) request {
		return request{subject: subject, start: start, end: start + ms, outcome: o}
	}
	h.addChange(0, change{changeKind: "SQL", sent: 9999 * ms, answered: 10 * time.Second, after: unauthorized})
	h.addRequests([]request{
		at(0, 1*time.Second, allow), at(0, 10500*ms, allow), at(0, 11500*ms, allow), at(0, 11600*ms, unauthorized),
		at(1, 12*time.Second, unavailable), at(1, 12200*ms, unavailable), at(1, 12800*ms, unavailable), at(1, 16*time.Second, unauthorized),
		at(1, 16*time.Second, allow), at(0, 17*time.Second, forbidden),
	})
	got := judgeAll(h, time.Second)
	if got.total.requests != 10 || got.total.violations != 2 || got.total.wrongDenials != 1 || got.total.unavailable != 3 || got.total.ambiguous != 1 {
		t.Errorf("%+v", got.total)
	}
	freeze := got.faults["freeze"]
	if freeze.changes != 1 || freeze.worst != 1500*ms || freeze.violations != 1 || freeze.recovery != 200*ms {
		t.Errorf("%+v", freeze)
	}
	if changeKind := got.changeKinds["SQL"]; changeKind.changes != 1 || changeKind.worst != 1500*ms || changeKind.violations != 1 {
		t.Errorf("%+v", changeKind)
	}
}
