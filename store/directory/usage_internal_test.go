package directory

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newUsage returns a value of the type usage for tests. This value has no database and never writes.
func newUsage(clock func() time.Time) *usage {
	return &usage{log: slog.New(slog.DiscardHandler), clock: clock, start: clock(), notes: newNotes(), pending: map[string]time.Duration{}}
}

func TestRepeatedUseTakesNoLockAndAllocatesNothing(t *testing.T) {
	u := newUsage(time.Now)
	id := strings.Clone("5f1a2b3c-token")
	u.note(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	allocations := make(chan float64, 1)
	go func() { allocations <- testing.AllocsPerRun(1000, func() { u.note(id) }) }()
	select {
	case n := <-allocations:
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("note waits for the lock")
	}
}

func TestPendingUsageIsLimited(t *testing.T) {
	u := newUsage(time.Now)
	for i := range maxPending + 10 {
		u.note(fmt.Sprint(i))
	}
	if len(u.pending) != maxPending || u.dropped != 10 {
		t.Errorf("%d uses are pending, and %d were dropped", len(u.pending), u.dropped)
	}
}

// A token is noted again only after a minute. If two tokens are used at the same time, both tokens are noted.
func TestTokenUseIsRecordedOncePerMinute(t *testing.T) {
	s := newNotes()
	const second = time.Second
	for _, c := range []struct {
		id   string
		at   time.Duration
		want bool
	}{
		{"a", 0, true}, {"b", 0, true}, {"a", 0, false}, {"a", minNoteInterval - second, false}, {"b", minNoteInterval - second, false},
		{"a", minNoteInterval + second, true}, {"a", minNoteInterval + 2*second, false}, {"b", 365 * 24 * time.Hour, true}, {"b", 365*24*time.Hour + second, false},
	} {
		if got := s.note(c.id, c.at); got != c.want {
			t.Errorf("the token %s, used after %v: noted = %t", c.id, c.at, got)
		}
	}
}

// Each token is noted at its first use. If a token is used twice at the same time, usually only one use is noted. With 100,000
// tokens, some notes are overwritten, so a few tokens are noted again too early.
func TestManyTokensAreNoted(t *testing.T) {
	s := newNotes()
	const n = 100_000
	var noted atomic.Int64
	noteAll := func() {
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := range n {
					if s.note(fmt.Sprint(i), time.Second) {
						noted.Add(1)
					}
				}
			})
		}
		wg.Wait()
	}
	noteAll()
	if got := noted.Swap(0); got < n || got > n*11/10 {
		t.Errorf("%d tokens were noted %d times", n, got)
	}
	noteAll()
	if got := noted.Load(); got > n/5 {
		t.Errorf("%d of %d tokens were noted again too early", got, n)
	}
}

func BenchmarkNote(b *testing.B) {
	u := newUsage(time.Now)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			u.note("5f1a2b3c-token")
		}
	})
}
