package audit

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/program"
)

var (
	duration   = flag.Duration("duration", 30*time.Second, "how long the audit lasts")
	out        = flag.String("out", "", "folder for the table and the plot; empty: none")
	seed       = flag.Uint64("seed", 0, "seed of the random choices; 0: from the clock")
	pooled     = flag.Int("pooled", 1, "number of sidecars behind PgBouncer, of four")
	prepared   = flag.Bool("prepared", false, "make changes by prepared transactions too")
	binary     = flag.String("keywicket", "", "the keywicket binary to audit; empty: build one")
	onlyFaults = flag.String("faults", "", "inject only these faults, separated by commas; empty: all")
	logFile    = flag.String("log", "", "file for the logs of the sidecars; empty: none")
	onlyWays   = flag.String("ways", "", "make changes only in these ways, separated by commas; empty: all")
)

// interrupted is done after SIGINT or SIGTERM. Tests then stop their processes and remove their files.
var interrupted context.Context

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	interrupted = ctx
	code := m.Run()
	stop()
	os.Exit(code)
}

func startWorld(t *testing.T, o options) *world {
	t.Helper()
	o.log = t.Logf
	ctx, cancel := context.WithTimeout(interrupted, 2*time.Minute)
	defer cancel()
	w, err := newWorld(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && w.pooler != nil {
			t.Log(w.pooler.Log())
		}
		if err := w.close(); err != nil {
			t.Log(err) // processes and connections that faults have closed may return errors
		}
	})
	return w
}

// TestAudit is the audit. During random changes and faults, no answer may be older than the staleness bound.
func TestAudit(t *testing.T) {
	harness.SkipIfShort(t)
	audited := *binary
	if audited == "" {
		var err error
		if audited, err = program.Keywicket(); err != nil {
			t.Fatal(err)
		}
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seed)
	var output io.Writer
	if *logFile != "" {
		f, err := os.Create(*logFile)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		output = f
	}
	chosenFaults := chosen(t, *onlyFaults, faults, func(f fault) string { return f.name })
	chosenWays := chosen(t, *onlyWays, ways, func(v way) string { return v.name })
	w := startWorld(t, options{
		binary: audited, sidecars: 4, pooled: *pooled, subjects: 240, readers: 4, pace: 16 * time.Millisecond, interval: 400 * time.Millisecond,
		replicated: true, prepared: *prepared, ways: chosenWays, seed: *seed, output: output,
	})
	p, err := w.run(interrupted, *duration, chosenFaults)
	if err != nil {
		t.Error(err)
	}
	fmt.Println(p.table())
	if w.pooler != nil && w.pooler.Restarts() > 0 {
		t.Logf("PgBouncer exited unexpectedly %d times", w.pooler.Restarts())
	}
	if s := p.summary(); s != "" {
		t.Log(s)
	}
	if *out != "" {
		if err := p.write(*out); err != nil {
			t.Error(err)
		}
	}
	total := p.total
	if total.violations > 0 || total.wrongDenials > 0 || total.unexpected > 0 {
		t.Errorf("%d violations, %d wrong denials, %d unexpected answers", total.violations, total.wrongDenials, total.unexpected)
	}
	if total.ambiguous*100 > total.requests {
		t.Errorf("%d of %d requests are ambiguous: more than 1 %%", total.ambiguous, total.requests)
	}
	// A 503 does not violate the bound, but a sidecar must recover from it soon.
	if total.recovery > 10*time.Second {
		t.Errorf("after a fault, sidecars answered 503 for %v", total.recovery)
	}
	if total.requests < 100*int(duration.Seconds()) || total.changes == 0 {
		t.Errorf("%d requests and %d changes: nothing was audited", total.requests, total.changes)
	}
}

// chosen returns the elements whose names are in `names`, a list that is separated by commas. If the list is empty, it returns
// all elements.
func chosen[T any](t *testing.T, names string, all []T, name func(T) string) []T {
	t.Helper()
	if names == "" {
		return all
	}
	var selected []T
	for n := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(one T) bool { return name(one) == n })
		if i < 0 {
			t.Fatalf("there is no %q", n)
		}
		selected = append(selected, all[i])
	}
	return selected
}
