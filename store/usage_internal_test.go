package store

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// newUsage has no database: it notes, and writes nothing.
func newUsage(clock func() time.Time) *usage {
	return &usage{log: slog.New(slog.DiscardHandler), clock: clock, start: clock(), pending: map[string]time.Duration{}}
}

func TestNotingATokenAgainTakesNoLockAndAllocatesNothing(t *testing.T) {
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
		t.Fatal("it waits for the lock")
	}
}

func TestPendingUsageIsBounded(t *testing.T) {
	u := newUsage(time.Now)
	for i := range maxPending + 10 {
		u.note(fmt.Sprint(i))
	}
	if len(u.pending) != maxPending || u.dropped != 10 {
		t.Errorf("%d wait, and %d were dropped", len(u.pending), u.dropped)
	}
	seen := 0
	u.seen.Range(func(any, any) bool { seen++; return true })
	if seen > maxSeen {
		t.Errorf("%d are remembered", seen)
	}
}

func TestTokensThatAreNoLongerUsedAreForgotten(t *testing.T) {
	now := time.Now()
	u := newUsage(func() time.Time { return now })
	seen := func() (n int) {
		u.seen.Range(func(any, any) bool { n++; return true })
		return n
	}
	u.note("old")
	now = now.Add(usageGrain / 2)
	u.note("new")
	u.prune()
	if n := seen(); n != 2 {
		t.Errorf("%d are known within the minute, not 2", n)
	}
	now = now.Add(usageGrain / 2)
	u.prune()
	if n := seen(); n != 1 {
		t.Errorf("%d are known, not only the one of this minute", n)
	}
	now = now.Add(usageGrain)
	u.prune()
	if n := seen(); n != 0 {
		t.Errorf("%d are known a minute later", n)
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
