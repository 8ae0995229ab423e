// Package openapi tests route tables that it creates from the OpenAPI documents of two real APIs. `make .tools/openapi` fetches
// the documents. They contain forms of paths that this project did not invent. They also contain so many rows that several rows
// can match one path.
package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/test/program"
)

var parameters = target.Parameters{MayHold: []string{"#", "%", "?", ";"}}

// row is an operation in the table of a document.
type row struct {
	Method string
	Path   string
	Scopes []string `yaml:",flow"`
}

// writePolicy creates a policy folder: the built-in policy, and a table of the operations.
func writePolicy(t *testing.T, api string, all []operation) string {
	t.Helper()
	catalogue := make(map[string]string)
	rows := make([]row, len(all))
	for i, o := range all {
		catalogue[o.scope] = ""
		rows[i] = row{o.method, o.path(), []string{o.scope}}
	}
	text, err := yaml.Marshal(map[string]any{
		"scopes":     map[string]any{"workspace": catalogue},
		"parameters": map[string]any{"may_hold": parameters.MayHold},
		"routes":     rows,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	folder := filepath.Join(dir, "apis", api)
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "data.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const pathsPerOperation = 20

// Every operation of GitHub's and of Stripe's API is a row. A path of an operation matches its row, or a row that has priority
// by the documented rule. The sidecar and the unmodified opa select the same row.
func TestEveryOperationIsARow(t *testing.T) {
	race.Skip(t)
	opa, err := program.OPA()
	if err != nil {
		t.Fatal(err)
	}
	for _, api := range []string{"github", "stripe"} {
		t.Run(api, func(t *testing.T) {
			document := readDocument(t, api)
			all := document.operations(t)
			dir := writePolicy(t, api, all)
			start := time.Now()
			engine, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			rows := engine.Tables()[api].Routes
			t.Logf("%d operations, loaded in %s", len(all), time.Since(start).Round(time.Millisecond))
			narrowed := slices.DeleteFunc(slices.Clone(all), func(o operation) bool { return !o.narrowed })
			t.Logf("in %d rows, a parameter that may have slashes is one segment", len(narrowed))
			n := 0
			for _, methods := range document.Paths {
				n += len(methods)
			}
			if n <= 500 || len(rows) != n {
				t.Fatalf("%d operations, %d rows", n, len(rows))
			}
			c := &comparison{api: api, all: all, siblings: siblingsIn(all), engine: engine, opa: opa, dir: dir, stride: 1}
			if testing.Short() {
				c.stride = 97 // opa tests every row for each path, which takes long
			}
			c.run(t)
		})
	}
}

// comparison compares the rows that the sidecar's engine, the unmodified opa and the documented rule select for each path.
type comparison struct {
	api      string
	all      []operation
	siblings siblings
	engine   *policies.Engine
	opa, dir string
	stride   int // opa checks every path whose index is a multiple of stride
}

// probe is a path that was generated from the row `source`, and the row `want` that has priority for this path.
type probe struct {
	source, want operation
	segments     []string
}

func (q probe) String() string {
	return fmt.Sprintf("%s %q, whose row is %s", q.source.method, target.JoinSegments(q.segments), q.want.name())
}

func (c *comparison) run(t *testing.T) {
	probes := make([][]probe, runtime.GOMAXPROCS(0))
	took := parallel(t, len(probes), func(worker int) error {
		for i := worker; i < len(c.all); i += len(probes) {
			p := paths{rand.New(rand.NewPCG(1, uint64(i))), c.siblings}
			for range pathsPerOperation {
				q, err := c.checkSidecar(t.Context(), p, c.all[i])
				if err != nil {
					return err
				}
				probes[worker] = append(probes[worker], q)
			}
		}
		return nil
	})
	all := slices.Concat(probes...)
	if len(all) != len(c.all)*pathsPerOperation {
		t.Fatalf("%d paths of %d operations", len(all), len(c.all))
	}
	t.Logf("the sidecar's engine decided on %d paths in %s", len(all), took)
	took = parallel(t, len(probes), func(worker int) error { return c.checkOPA(t.Context(), probes[worker]) })
	t.Logf("opa evaluated one of every %d paths in %s", c.stride, took)

	outranked := make(map[string]probe)
	n := 0
	for _, q := range all {
		if q.source.name() != q.want.name() {
			outranked[q.source.name()] = q
			n++
		}
	}
	if t.Logf("%d paths, which were generated from %d rows, select another row", n, len(outranked)); n < 20 {
		t.Error("the comparison covers few paths that several rows match")
	}
	for _, source := range slices.Sorted(maps.Keys(outranked))[:5] {
		t.Logf("generated from %s: %s", source, outranked[source])
	}
}

// parallel runs the workers, waits for all workers, and returns how long they took.
func parallel(t *testing.T, workers int, work func(worker int) error) time.Duration {
	t.Helper()
	start := time.Now()
	var group errgroup.Group
	for i := range workers {
		group.Go(func() error { return work(i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start).Round(time.Millisecond)
}

// checkSidecar generates a path from the operation `source`. It checks the path in the sidecar's engine with the scope of the
// row that has priority.
func (c *comparison) checkSidecar(ctx context.Context, p paths, source operation) (probe, error) {
	q := probe{source: source, segments: p.pathFor(source)}
	raw := p.encode(q.segments)
	read, err := target.Segments(raw, parameters)
	if err != nil {
		return q, fmt.Errorf("%s: %q: %w", source.name(), raw, err)
	}
	if !slices.Equal(read, q.segments) {
		return q, fmt.Errorf("%s: %q is parsed as %q", source.name(), raw, read)
	}
	if _, ok := match(source.segments, q.segments); !ok {
		return q, fmt.Errorf("%s does not match %q, which was generated from it", source.name(), raw)
	}
	first := winners(c.all, source.method, q.segments)
	if len(first) != 1 {
		return q, fmt.Errorf("%s %q: the rule selects %d rows", source.method, raw, len(first))
	}
	q.want = first[0]
	d, err := c.engine.Decide(ctx, authz.Input{
		API: c.api, Method: source.method, Path: target.JoinSegments(q.segments),
		Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, API: c.api, Scopes: []string{q.want.scope}},
		Workspace: authz.Workspace{Requested: true, Granted: true},
	})
	if err != nil {
		return q, fmt.Errorf("%s: %w", q, err)
	}
	if d.Route != q.want.name() || !d.Allow {
		return q, fmt.Errorf("%s: the sidecar returns %+v", q, d)
	}
	return q, nil
}

// checkOPA evaluates every path, or a part of the paths with -short, in the unmodified opa.
func (c *comparison) checkOPA(ctx context.Context, all []probe) error {
	var selected []probe
	var inputs []any
	for i, q := range all {
		if i%c.stride == 0 {
			selected = append(selected, q)
			inputs = append(inputs, map[string]any{
				"api":     c.api,
				"request": map[string]any{"method": q.source.method, "path": target.JoinSegments(q.segments), "segments": q.segments},
			})
		}
	}
	text, err := json.Marshal(inputs)
	if err != nil {
		return err
	}
	opa := exec.CommandContext(ctx, c.opa, "eval", "--data", c.dir, "--stdin-input", "--strict-builtin-errors",
		"--optimize-store-for-read-speed", "--format", "raw",
		"{i: name | some i, one in input; name := data.keywicket.route.name with input as one}")
	opa.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	opa.Stderr = &stderr
	out, err := opa.Output()
	if err != nil {
		return fmt.Errorf("opa eval: %w: %s%s", err, out, stderr.Bytes())
	}
	var names map[string]string
	if err := json.Unmarshal(out, &names); err != nil {
		return fmt.Errorf("opa eval: %w: %s", err, out)
	}
	for i, q := range selected {
		if name := names[strconv.Itoa(i)]; name != q.want.name() {
			return fmt.Errorf("%s: opa returns %q", q, name)
		}
	}
	return nil
}
