package cache_test

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// budget is a number of cases. Each case is a schedule: a list of random steps, such as look-ups, transactions and readings of the
// log. variants_test.go defines simple caches with one flaw each: a deliberate
// error. For each of these caches, the search must find a wrong answer in at most budget cases. For the real cache, it must find
// no wrong answer in 10 × budget cases.
const budget = 1000

func TestKnownBadVariantsAreFound(t *testing.T) {
	oneProcessor(t)
	for _, f := range flaws {
		t.Run(string(f), func(t *testing.T) {
			n, s, wrong := simpleSimulation(f).search(t, 0, budget, 1)
			if wrong == "" {
				t.Fatalf("the flaw is not found in %d cases: these cases prove nothing about the real cache", budget)
			}
			t.Logf("%s: wrong answer in case %d\n%v\n%s", f, n, s, wrong)
		})
	}
}

// Without a flaw, the simple cache gives no wrong answer. So if a variant gives a wrong answer, its flaw is the cause.
func TestVariantWithoutFlawIsSafe(t *testing.T) { expectSafe(t, simpleSimulation(flawless), 0, budget) }

func TestRealCacheIsSafe(t *testing.T) {
	t.Run("hashes differ", func(t *testing.T) { expectSafe(t, realSimulation(false), 0, 5*budget) })
	t.Run("hashes collide", func(t *testing.T) { expectSafe(t, realSimulation(true), 5*budget, 5*budget) })
}

// This test draws new random cases in each run. The flag -rapid.checks sets the number of cases.
func TestRealCacheIsSafeInOtherCases(t *testing.T) {
	oneProcessor(t)
	m := realSimulation(false)
	rapid.Check(t, func(r *rapid.T) {
		s := schedules.Draw(r, "schedule")
		if _, wrong := m.run(t, s); wrong != "" {
			r.Fatalf("wrong answer\n%v\n%s", s, wrong)
		}
	})
}

func simpleSimulation(f flaw) simulation {
	return simulation{
		cache:  func(s cache.Source) sidecar { return newSimple(f, s) },
		counts: make(map[authz.CacheResult]int),
	}
}

// realSimulation returns a simulation of the real cache. The parameter collide also selects who runs a load. If it is false, the
// cache has a LoadTimeout, so the caller runs the load, as in a sidecar. If it is true, a new goroutine runs the load.
func realSimulation(collide bool) simulation {
	return simulation{
		cache: func(s cache.Source) sidecar {
			config := cache.Config{MaxBytes: 1 << 20, StalenessBound: bound}
			if !collide {
				config.LoadTimeout = time.Hour
			}
			c, err := cache.New(config, s, slog.New(slog.DiscardHandler))
			if err != nil {
				panic(err)
			}
			if collide {
				c.Collide()
			}
			return c
		},
		counts: make(map[authz.CacheResult]int),
	}
}

func expectSafe(t *testing.T, m simulation, first, cases int) {
	t.Helper()
	oneProcessor(t)
	const perCache = 50 // number of schedules that use the same cache: a greater number saves time, but leaves more entries of earlier schedules in the cache
	if n, s, wrong := m.search(t, first, cases, perCache); wrong != "" {
		t.Fatalf("wrong answer in case %d\n%v\n%s", n, s, wrong)
	}
	t.Logf("no wrong answer in %d cases; answers by cache result: %v", cases, m.counts)
	for _, from := range []authz.CacheResult{authz.CacheHit, authz.CacheMiss, authz.CacheBypass} {
		if m.counts[from] < cases/2 {
			t.Errorf("only %d answers have the cache result %s: the test proves little", m.counts[from], from)
		}
	}
}

// oneProcessor limits Go to one processor, which makes the tests several times as fast. In each test case, the goroutines run one
// after the other, also with several processors. Each goroutine runs for a shorter time than Go needs to wake another processor.
func oneProcessor(t *testing.T) {
	n := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(n) })
}

// search runs cases until it finds a wrong answer. It returns the number of this case, its shortened schedule, and a description
// of the wrong answer. Each group of perCache cases uses the same cache.
func (sim simulation) search(t *testing.T, first, cases, perCache int) (n int, s schedule, wrong string) {
	t.Helper()
	for n = first; n < first+cases; n += perCache {
		drawn := make([]schedule, perCache)
		for i := range drawn {
			drawn[i] = schedules.Example(n + i)
		}
		bad, wrong := sim.run(t, drawn...)
		if wrong == "" {
			continue
		}
		s = minimize(drawn[bad], func(s schedule) bool { _, wrong := sim.run(t, s); return wrong != "" })
		if _, alone := sim.run(t, s); alone != "" {
			wrong = alone
		}
		return n + bad, s, wrong
	}
	return 0, nil, ""
}
