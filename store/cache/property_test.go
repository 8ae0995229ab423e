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

// budget is in how many cases each of the known-bad caches has to be found. The real one has to survive ten times as
// many.
const budget = 1000

func TestKnownBadVariantsAreFound(t *testing.T) {
	oneProcessor(t)
	for _, f := range flaws {
		t.Run(string(f), func(t *testing.T) {
			n, s, wrong := simpleGame(f).hunt(t, 0, budget, 1)
			if wrong == "" {
				t.Fatalf("not found in %d cases, so whoever survives them proves nothing", budget)
			}
			t.Logf("%s: unsafe at case %d\n%v\n%s", f, n, s, wrong)
		})
	}
}

// It is the flaw, and nothing else, that makes each variant unsafe.
func TestVariantWithoutFlawIsSafe(t *testing.T) { survive(t, simpleGame(flawless), 0, budget) }

func TestRealCacheIsSafe(t *testing.T) {
	t.Run("hashes differ", func(t *testing.T) { survive(t, realGame(false), 0, 5*budget) })
	t.Run("hashes collide", func(t *testing.T) { survive(t, realGame(true), 5*budget, 5*budget) })
}

// These are new cases each time, and more of them with -rapid.checks.
func TestRealCacheIsSafeInOtherCases(t *testing.T) {
	oneProcessor(t)
	g := realGame(false)
	rapid.Check(t, func(r *rapid.T) {
		s := schedules.Draw(r, "schedule")
		if _, wrong := g.play(t, s); wrong != "" {
			r.Fatalf("unsafe\n%v\n%s", s, wrong)
		}
	})
}

func simpleGame(f flaw) game {
	return game{
		cache: func(s cache.Source) sidecar { return newSimple(f, s) },
		tally: make(map[authz.CacheResult]int),
	}
}

func realGame(collide bool) game {
	return game{
		cache: func(s cache.Source) sidecar {
			config := cache.Config{MaxBytes: 1 << 20, StalenessBound: bound}
			if !collide { // whoever begins a load runs it, as in a sidecar
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
		tally: make(map[authz.CacheResult]int),
	}
}

func survive(t *testing.T, g game, first, cases int) {
	t.Helper()
	oneProcessor(t)
	const together = 50 // as many as make it cheap enough, and no more, so that most meet an empty cache
	if n, s, wrong := g.hunt(t, first, cases, together); wrong != "" {
		t.Fatalf("unsafe at case %d\n%v\n%s", n, s, wrong)
	}
	t.Logf("safe in %d cases; answers: %v", cases, g.tally)
	for _, from := range []authz.CacheResult{authz.CacheHit, authz.CacheMiss, authz.CacheBypass} {
		if g.tally[from] < cases/2 {
			t.Errorf("only %d answers are a %s: this proves little", g.tally[from], from)
		}
	}
}

// oneProcessor makes the tests several times as fast: the goroutines of a case take turns in any case, and to wake
// another processor takes longer than a turn.
func oneProcessor(t *testing.T) {
	n := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(n) })
}

// hunt plays cases, so many against one cache, and looks for one that is answered wrongly: its number, its schedule as
// short as it can be, and what is wrong.
func (g game) hunt(t *testing.T, first, cases, together int) (n int, s schedule, wrong string) {
	t.Helper()
	for n = first; n < first+cases; n += together {
		drawn := make([]schedule, together)
		for i := range drawn {
			drawn[i] = schedules.Example(n + i)
		}
		bad, wrong := g.play(t, drawn...)
		if wrong == "" {
			continue
		}
		s = minimal(drawn[bad], func(s schedule) bool { _, wrong := g.play(t, s); return wrong != "" })
		if _, alone := g.play(t, s); alone != "" {
			wrong = alone
		}
		return n + bad, s, wrong
	}
	return 0, nil, ""
}
