package bench

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

var growth = flag.Duration("growth", 5*time.Minute, `duration of the benchmark "growth"`)

// residentMemory returns the process's resident memory (RSS) in MiB.
func (s *server) residentMemory(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kilobytes); n == 1 {
			return kilobytes / 1024
		}
	}
	t.Fatal(s.name, " has no VmRSS")
	return 0
}

// metric reads one of the sidecar's metrics, by its name with labels.
func (s *server) metric(t *testing.T, name string) (value float64) {
	t.Helper()
	response, err := http.Get("http://" + s.operations + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if _, err := fmt.Sscan(text, &value); err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("the metric %s is missing", name)
	return 0
}

// addSettings adds the settings of the sidecar's garbage collector to the case.
func (s *server) addSettings(t *testing.T, c *caseFigures) {
	t.Helper()
	c.add(s.name, gogc, s.metric(t, "go_gc_gogc_percent"))
	c.add(s.name, memLimit, s.metric(t, "go_gc_gomemlimit_bytes")/(1<<20))
}

// sampleMemory records the memory while f runs repeatedly. It takes one sample per second, or ten samples if the length is
// shorter than ten seconds.
func (s *server) sampleMemory(ctx context.Context, t *testing.T, c *caseFigures, length time.Duration, f func()) {
	t.Helper()
	interval := min(time.Second, length/10)
	for end := time.Now().Add(length); time.Now().Before(end); {
		if ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		begin := time.Now()
		f()
		time.Sleep(time.Until(begin.Add(interval)))
		c.add(s.name, rss, s.residentMemory(t))
	}
}

// idleMemory measures the memory of an idle sidecar.
func idleMemory(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	sidecar := w.keywicket(t)
	c := newCase("at rest")
	sidecar.addSettings(t, &c)
	sidecar.sampleMemory(ctx, t, &c, 10*time.Second, func() {})
	return []caseFigures{c}
}

// memory measures a sidecar with 100,000 warm tokens under load. The sidecar uses the default cache.max_bytes if the tokens fit
// into the cache. Otherwise cache.max_bytes is 1.25 times the size of the tokens, because an eighth of the cache is reserved
// for denials. The factor 1.25 also leaves a small margin.
func memory(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	const stored = 100_000
	databaseURL := "KEYWICKET_DATABASE_URL=" + w.database(t, "memory", stored)
	p := w.issuesPlan("many", equalTokens, numbersBelow(stored))
	sidecar := w.keywicket(t, databaseURL, cacheForAll)
	w.warm(ctx, t, sidecar, p, 200)
	size, setting := 64.0, ""
	if needed := 1.25 * sidecar.metric(t, cacheBytes) / (1 << 20); needed > size {
		size = math.Ceil(needed)
		setting = fmt.Sprintf("KEYWICKET_CACHE_MAX_BYTES=%.0fMiB", size)
	}
	if err := sidecar.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	sidecar = w.keywicket(t, databaseURL, setting)
	w.warm(ctx, t, sidecar, p, 200)
	warm := newCase(fmt.Sprintf("100,000 warm tokens, under load, cache.max_bytes: %.0fMiB", size))
	sidecar.addSettings(t, &warm)
	warm.add(sidecar.name, entries, sidecar.metric(t, `keywicket_cache_entries{answers="good"}`))
	warm.add(sidecar.name, cached, sidecar.metric(t, cacheBytes)/(1<<20))
	next := 0
	sidecar.sampleMemory(ctx, t, &warm, 10*time.Second, func() {
		next += w.client.run(t, load{Plan: "many", Address: sidecar.address, Callers: 4, For: time.Second, From: next, Want: 200}).Checks
	})
	return []caseFigures{warm}
}

const cacheBytes = `keywicket_cache_bytes{answers="good"}`

// memoryGrowth measures the memory over minutes at 70 % of the sidecar's maximum rate. Tokens are looked up again when they reach
// their maximum age, as in a default configuration.
func memoryGrowth(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	sidecar := w.keywicket(t, "KEYWICKET_CACHE_MAX_AGE=60s")
	w.warm(ctx, t, sidecar, w.issuesPlan("warm", variedTokens, smallSets(rotation)), 200)
	l := load{Plan: "warm", Address: sidecar.address, Callers: 16, For: 3 * time.Second, Want: 200}
	maxRate := w.client.run(t, l).perSecond()
	c := newCase(fmt.Sprintf("%v at 70 %% of saturation", *growth))
	sidecar.addSettings(t, &c)
	l.For, l.Rate = time.Second, 0.7*maxRate
	sidecar.sampleMemory(ctx, t, &c, *growth, func() {
		r := w.client.run(t, l)
		l.From += r.Checks
		c.add(sidecar.name, checkRate, r.perSecond())
	})
	return []caseFigures{c}
}

// startTime measures the time from the start of the process until it is ready.
func startTime(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	c := newCase("built-in policies")
	for range max(1, *rounds/2) {
		if ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		begin := time.Now()
		s := w.keywicket(t)
		c.add(s.name, ready, microseconds(time.Since(begin))/1e3)
		if err := s.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return []caseFigures{c}
}
