package directory

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// newUsage returns a value of the type usage for tests. This value has no database and never writes.
func newUsage() *usage {
	return &usage{log: slog.New(slog.DiscardHandler), clock: time.Now, start: time.Now(), tokens: newUses(), grants: newUses()}
}

// testID returns the n-th of many ids. Every tenth id is not a UUID.
func testID(n int) string {
	if n%10 == 9 {
		return fmt.Sprint("token ", n)
	}
	var key useKey
	binary.BigEndian.PutUint64(key[:8], uint64(n)) //nolint:gosec // not negative
	return key.String()
}

// due returns all rows that are due, and stores that they are written.
func (u *uses) due(at time.Duration, all bool) (rows []row) {
	now := toTicks(at)
	for i := range u.shards {
		rows = u.shards[i].appendDue(rows, now, all)
	}
	for _, r := range rows {
		r.written(now)
	}
	return rows
}

// size returns the number of stored tokens, and of their stored names.
func (u *uses) size() (n int) {
	for i := range u.shards {
		n += len(u.shards[i].uses) + len(u.shards[i].names)
	}
	return n
}

func TestRepeatedUseAllocatesNothing(t *testing.T) {
	u := newUsage()
	for _, p := range []authz.Principal{
		{ID: "5f1a2b3c-90ab-4cde-8123-456789abcdef", Kind: authz.KindWorkspaceKey},
		{ID: strings.Repeat("a long id that is not a UUID", 10), Kind: authz.KindPersonalKey},
		{ID: "t", GrantID: "5f1a2b3c-90ab-4cde-8123-456789abcdef", Kind: authz.KindOAuthToken},
		{ID: "user", Kind: authz.KindSession},
	} {
		u.count(&p, true)
		if n := testing.AllocsPerRun(1000, func() { u.count(&p, true) }); n != 0 {
			t.Errorf("%s: %v allocations", p.Kind, n)
		}
	}
}

// Each shard has its own lock, so a use does not wait for the uses of most other tokens.
func TestUsesHaveManyLocks(t *testing.T) {
	const n = 1000
	u := newUses()
	locked := &u.shards[7]
	locked.mu.Lock()
	ended := make(chan int, n)
	for i := range n {
		go func() { u.add(testID(i), 1, 1, 0); ended <- i }()
	}
	for i := range n {
		if i == n-30 {
			locked.mu.Unlock()
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d uses wait for one of %d locks", n-i, n, useShards)
		}
	}
}

// The last use is due once a minute. The counts are due at the first use, and then every ten minutes. The last uses before a pause
// are also written.
func TestWhatIsDueWhen(t *testing.T) {
	u := newUses()
	for _, c := range []struct {
		at, use time.Duration // time of a flush, and of a request before it; -1: no request
		want    string        // what is written
	}{
		{0, -1, ""},
		{5 * time.Second, time.Second, "last 1s, 1 allowed"},
		{6 * time.Second, 5 * time.Second, ""},
		{60 * time.Second, 60 * time.Second, ""},
		{62 * time.Second, 62 * time.Second, "last 1m2s, 0 allowed"},
		{5 * time.Minute, 5 * time.Minute, "last 5m0s, 0 allowed"},
		{6 * time.Minute, 5*time.Minute + 10*time.Second, ""},
		{10*time.Minute + 4*time.Second, -1, ""},
		{10*time.Minute + 5*time.Second, -1, "last 5m10s, 5 allowed"},
		{11 * time.Minute, -1, ""},
		{21 * time.Minute, -1, ""}, // forgotten
		{22 * time.Minute, 22 * time.Minute, "last 22m0s, 1 allowed"},
	} {
		if c.use >= 0 {
			u.add("t", toTicks(c.use), 1, 0)
		}
		got := ""
		for _, r := range u.due(c.at, false) {
			got += fmt.Sprintf("last %v, %d allowed", r.last.time(), r.allowed)
		}
		if got != c.want {
			t.Errorf("after %v: %q is due, not %q", c.at, got, c.want)
		}
		if c.at == 21*time.Minute && u.size() != 0 {
			t.Error("an unused token is not forgotten")
		}
	}
}

// Many goroutines use many tokens while others write. Every request is counted once.
func TestCountsAreExact(t *testing.T) {
	u := newUses()
	const tokens, goroutines, rounds = 500, 8, 20
	type counts struct{ allowed, denied uint32 }
	got := make(map[string]counts)
	write := func(at time.Duration, all bool) {
		for _, r := range u.due(at, all) {
			c := got[r.id]
			got[r.id] = counts{c.allowed + r.allowed, c.denied + r.denied}
		}
	}
	var using sync.WaitGroup
	for g := range goroutines {
		using.Go(func() {
			for range rounds {
				for i := range tokens {
					if g%2 == 0 {
						u.add(testID(i), 1, 1, 0)
					} else {
						u.add(testID(i), 1, 0, 1)
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { using.Wait(); close(done) }()
	writes := 0
	for running := true; running; writes++ {
		select {
		case <-done:
			running = false
		default:
		}
		write(time.Duration(writes)*countInterval, !running)
	}
	if len(got) != tokens || writes < 3 {
		t.Errorf("%d of %d tokens are counted, after %d writes", len(got), tokens, writes)
	}
	for i := range tokens {
		if c := got[testID(i)]; c != (counts{goroutines / 2 * rounds, goroutines / 2 * rounds}) {
			t.Errorf("%s has the counts %+v", testID(i), c)
		}
	}
}

// If more tokens are in use than the table holds, it forgets tokens that are written. It drops no request while the writer keeps up.
func TestFullTableLosesNothing(t *testing.T) {
	u := newUses()
	const tokens = useShards * maxUsesPerShard * 3 / 2
	counted := uint32(0)
	for i := range tokens {
		u.add(testID(i), 1, 1, 0)
		if i%50_000 == 0 {
			for _, r := range u.due(0, false) {
				counted += r.allowed
			}
		}
	}
	for _, r := range u.due(0, true) {
		counted += r.allowed
	}
	if n := u.takeDropped(); counted != tokens || n != 0 {
		t.Errorf("%d of %d requests are counted, and %d were dropped", counted, tokens, n)
	}
	if n := u.size(); n > useShards*maxUsesPerShard*11/10 { // a tenth of the tokens also has a name
		t.Errorf("the table contains %d tokens", n)
	}
}

// Without a database, the table has a limit, and reports what it drops.
func TestUnwrittenUsageIsLimited(t *testing.T) {
	u := newUses()
	const tokens = useShards * maxUsesPerShard * 3 / 2
	for i := range tokens {
		u.add(testID(i), 1, 1, 0)
	}
	kept := u.unwritten()
	if dropped := u.takeDropped(); kept > useShards*maxUsesPerShard || kept < useShards*maxUsesPerShard*9/10 || kept+dropped != tokens {
		t.Errorf("%d uses are kept, and %d were dropped", kept, dropped)
	}
	if n := u.takeDropped(); n != 0 {
		t.Errorf("%d drops are reported again", n)
	}
	if n := len(u.due(0, true)); n != kept || u.unwritten() != 0 {
		t.Errorf("%d of %d uses were due, and %d are unwritten", n, kept, u.unwritten())
	}
}

// The table stores 16 bytes only if they give the same text as the id.
func TestUUIDs(t *testing.T) {
	const id = "0123456f-89ab-4cde-8f01-23456789abcd"
	key, ok := parseUUID(id)
	if !ok || key.String() != id || hex.EncodeToString(key[:]) != strings.ReplaceAll(id, "-", "") {
		t.Errorf("%s became %s, %t", id, key, ok)
	}
	for _, other := range []string{
		"", "t1", strings.ToUpper(id), "{" + id + "}", strings.ReplaceAll(id, "-", ""), strings.ReplaceAll(id, "-", "0"), id[:35], id + "0",
		id[:35] + "g", id[:35] + "\xff", "g" + id[1:], id[:8] + "0-" + id[10:], id[:22] + "-1" + id[24:],
	} {
		if key, ok := parseUUID(other); ok {
			t.Errorf("%q became %s", other, key)
		}
	}
}

func BenchmarkCountUse(b *testing.B) {
	u := newUsage()
	p := authz.Principal{ID: "5f1a2b3c-90ab-4cde-8123-456789abcdef", Kind: authz.KindWorkspaceKey}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			u.count(&p, true)
		}
	})
}
