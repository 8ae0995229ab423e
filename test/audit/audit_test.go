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
	duration             = flag.Duration("duration", 30*time.Second, "how long the audit lasts")
	out                  = flag.String("out", "", "folder for the table and the plot; empty: none")
	seed                 = flag.Uint64("seed", 0, "seed of the random choices; 0: from the clock")
	pooledSidecars       = flag.Int("pooled", 1, "how many of the four sidecars connect through PgBouncer")
	preparedTransactions = flag.Bool("prepared", false, "also make changes with prepared transactions")
	binary               = flag.String("keywicket", "", "the keywicket binary to audit; empty: build one")
	onlyFaults           = flag.String("faults", "", "inject only these faults, separated by commas; empty: all")
	logFile              = flag.String("log", "", "file for the logs of the sidecars; empty: none")
	onlyChangeKinds      = flag.String("ways", "", "make only these kinds of changes, separated by commas; empty: all")
)

// signalContext is done after SIGINT or SIGTERM. Tests then stop their processes and remove their files.
var signalContext context.Context

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	signalContext = ctx
	code := m.Run()
	stop()
	os.Exit(code)
}

func startDeployment(t *testing.T, o options) *deployment {
	t.Helper()
	o.log = t.Logf
	ctx, cancel := context.WithTimeout(signalContext, 2*time.Minute)
	defer cancel()
	d, err := newDeployment(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && d.pooler != nil {
			t.Log(d.pooler.Log())
		}
		if err := d.close(); err != nil {
			t.Log(err) // processes and connections that faults have closed may return errors
		}
	})
	return d
}

// TestAudit makes random changes and faults while it sends checks to four sidecars. No answer may be older than the staleness
// bound.
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
	chosenFaults := selectByName(t, *onlyFaults, faults, func(f fault) string { return f.name })
	chosenKinds := selectByName(t, *onlyChangeKinds, changeKinds, func(v changeKind) string { return v.name })
	d := startDeployment(t, options{
		binary: audited, sidecars: 4, pooledSidecars: *pooledSidecars, subjects: 240, clients: 4, checkInterval: 16 * time.Millisecond, changeInterval: 400 * time.Millisecond,
		replicated: true, preparedTransactions: *preparedTransactions, changeKinds: chosenKinds, seed: *seed, output: output,
	})
	p, err := d.run(signalContext, *duration, chosenFaults)
	if err != nil {
		t.Error(err)
	}
	fmt.Println(p.table())
	if d.pooler != nil && d.pooler.Restarts() > 0 {
		t.Logf("PgBouncer exited unexpectedly %d times", d.pooler.Restarts())
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

// selectByName returns the elements whose names are in the list names, or all elements if the list is empty. Commas separate
// the names in the list.
func selectByName[T any](t *testing.T, names string, all []T, name func(T) string) []T {
	t.Helper()
	if names == "" {
		return all
	}
	var selected []T
	for n := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(one T) bool { return name(one) == n })
		if i < 0 {
			t.Fatalf("no element has the name %q", n)
		}
		selected = append(selected, all[i])
	}
	return selected
}
