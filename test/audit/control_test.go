package audit

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/program"
)

// control is a keywicket that lacks one protection. If the audit does not detect the missing protection, the audit proves
// nothing. The control for look-ups after a failover is in TestFailoverWithOpenConnections. That control cannot be part of the
// audit, because the audit's old primary cannot commit, which closes connections.
type control struct {
	name       string
	file       string // path in this repository
	old, new   string // a text that the file contains exactly once, and its replacement
	fault      fault  // the fault that shows the effect
	changeKind string // the kind of change
}

var controls = []control{
	{
		name: "changes in the log do not invalidate answers", file: "store/cache/fresh.go",
		old:   `return e.answers(l) && !e.outdated(&c.generations)`,
		new:   `return e.answers(l)`,
		fault: noFault, changeKind: "SQL",
	},
	{
		name: "the cache is used although the log is not read", file: "store/cache/lease.go",
		old:   `{ return int64(now) < l.until.Load() }`,
		new:   `{ return true }`,
		fault: silentReplies, changeKind: "SQL",
	},
	{
		name: "the lease begins at the reply, not at the request", file: "store/cache/feed.go",
		old:   `c.lease.extend(p.sent - r.FingerprintAge)`,
		new:   `c.lease.extend(c.now())`,
		fault: slowReplies, changeKind: "SQL",
	},
	{
		name: "rows of transactions that were open at the last reading are not read", file: "store/feed/poll.go",
		old:   `WHERE xid = open LIMIT`,
		new:   `WHERE xid = open AND false LIMIT`,
		fault: noFault, changeKind: "open transaction",
	},
	{
		name: "a change of the catalogs is not detected", file: "store/cache/feed.go",
		old:   `case r.Fingerprint != c.log.fingerprint:`,
		new:   `case false:`,
		fault: noFault, changeKind: "disabled triggers",
	},
	{
		name: "a swapped table is not detected", file: "store/feed/poll.go",
		old: `hash_array_extended(array_agg(c.oid), 0), hash_array_extended(array_agg(c.relfilenode), 0),
                       hash_array_extended(array_agg(c.xmin), 0), hash_array_extended(array_agg(c.parts), 0),
                       hash_array_extended(array_agg(t.world), 0)`,
		new:   `''`,
		fault: noFault, changeKind: "swapped table",
	},
}

// TestControls removes one protection at a time, and the judge must find violations each time. With the same schedule, the
// judge must find no violations in the unchanged keywicket. Otherwise, the missing protection would not be the cause of the
// violations.
func TestControls(t *testing.T) {
	harness.SkipIfShort(t)
	intact, err := program.Keywicket()
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{}
	for _, c := range controls {
		t.Run(c.name, func(t *testing.T) {
			broken, err := build(signalContext, t.TempDir(), overlay(t, c))
			if err != nil {
				t.Fatal(err)
			}
			const tries = 3 // on a busy machine, one try may send too few checks
			for try := 1; ; try++ {
				got := runControl(t, broken, c)
				if got.total.violations > 0 {
					break
				}
				if try == tries {
					t.Errorf("no violation was found: %+v", got.total)
					break
				}
			}
			schedule := c.fault.name + " " + c.changeKind
			if done[schedule] {
				return
			}
			done[schedule] = true
			if got := runControl(t, intact, c); got.total.violations > 0 {
				t.Errorf("%d violations in the unchanged keywicket\n%s", got.total.violations, got.summary())
			}
		})
	}
}

// runControl runs the audit for a short time, with the fault and the kind of change of the control.
func runControl(t *testing.T, binary string, c control) *report {
	t.Helper()
	d := startDeployment(t, options{
		binary: binary, sidecars: 1, subjects: 24, clients: 6, checkInterval: 20 * time.Millisecond, changeInterval: 300 * time.Millisecond,
		changeKinds: selectByName(t, c.changeKind, changeKinds, func(v changeKind) string { return v.name }), replicated: c.fault.standby, noHints: true, seed: 1,
	})
	ctx, cancel := context.WithTimeout(signalContext, time.Minute)
	defer cancel()
	p, err := d.run(ctx, 4*time.Second, []fault{c.fault})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Log(err)
	}
	return p
}

// overlay writes the file for `go build -overlay` that makes the control's replacement. It returns the path of this file.
func overlay(t *testing.T, c control) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", c.file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), c.old); n != 1 {
		t.Fatalf("%s contains the text %d times, not once: %s", c.file, n, c.old)
	}
	dir := t.TempDir()
	changed, list := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{changed: []byte(strings.Replace(string(text), c.old, c.new, 1)), list: replaced} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return list
}
