package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// startEnvoy starts Envoy with the edited configuration of deploy/envoy. Envoy sends its checks to the address in `checks`. The
// address of the returned server is the address of Velocity's listener.
func startEnvoy(t testing.TB, workers int, checks string, edit func(config map[string]any)) *server {
	t.Helper()
	binary, err := envoyproxy.Find()
	if err != nil {
		t.Fatal(err)
	}
	free := freeAddresses(t, 3)
	text, err := bootstrap.Render(bootstrap.Addresses{
		Admin: free[0], Listeners: map[string]string{"velocity": free[1], "velaflows": free[2]},
		Clusters: map[string]string{"keywicket": checks},
	})
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	edit(config)
	if text, err = yaml.Marshal(config); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{name: "Envoy", address: free[1]}
	s.start(t, nil, binary, []string{
		"--config-path", file, "--disable-hot-restart", "--concurrency", strconv.Itoa(workers), "--log-level", "error",
	}, cleanEnviron())
	s.await(t, "http://"+free[0]+"/ready")
	return s
}

// await waits until the URL returns 200.
func (s *server) await(t testing.TB, url string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		response, err := http.Get(url)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) || s.Err() != nil {
			t.Fatalf("%s is not ready: %v", s.name, s.Err())
		}
	}
}

// answerDirectly makes Envoy answer without an upstream, so that the measurement includes no upstream. It disables the access
// log, because this process would have to read the log.
func answerDirectly(config map[string]any) {
	remove(config, "access_log")
	replace(config, "routes", []any{map[string]any{
		"match":           map[string]any{"prefix": "/"},
		"direct_response": map[string]any{"status": 200, "body": map[string]any{"inline_string": "ok"}},
	}})
}

// removeFilter does the same as answerDirectly, and also removes the ext_authz filter.
func removeFilter(config map[string]any) {
	answerDirectly(config)
	remove(config, "typed_per_filter_config")
	replace(config, "http_filters", []any{map[string]any{
		"name":         "envoy.filters.http.router",
		"typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
	}})
}

func remove(node any, key string) { replace(node, key, nil) }

// replace sets every occurrence of the key to the value. A nil value removes the key.
func replace(node any, key string, value any) {
	switch n := node.(type) {
	case map[string]any:
		if _, ok := n[key]; ok {
			n[key] = value
		}
		if value == nil {
			delete(n, key)
		}
		for name, child := range n {
			if name != key {
				replace(child, key, value)
			}
		}
	case []any:
		for _, child := range n {
			replace(child, key, value)
		}
	}
}

// startEnvoys starts three Envoys. One uses keywicket, one uses a no-op server with the same answer, and one has no ext_authz
// filter.
func (w *setup) startEnvoys(ctx context.Context, t *testing.T, workers int) []*comparedServer {
	t.Helper()
	sidecar := w.keywicket(t)
	p := w.issuesPlan("warm", variedTokens, smallSets(rotation))
	w.warm(ctx, t, sidecar, p, 200)
	sameAnswer := w.noop(t, "", w.writeAnswer(ctx, t, sidecar, p))
	f, err := httpTemplate(endpoint{http.MethodGet, "/api/issues/{id}"})
	if err != nil {
		t.Fatal(err)
	}
	overHTTP := plan{Name: "http", Templates: []requestTemplate{f}}
	for _, q := range p.Entries {
		overHTTP.Entries = append(overHTTP.Entries, planEntry{q.Token, 0})
	}
	w.client.storePlan(t, overHTTP)
	unfiltered := startEnvoy(t, workers, sidecar.address, removeFilter)
	unfiltered.name = noFilter
	return []*comparedServer{
		{server: sidecar, want: 200, envoy: startEnvoy(t, workers, sidecar.address, answerDirectly)},
		{server: sameAnswer, want: 200, envoy: startEnvoy(t, workers, sameAnswer.address, answerDirectly)},
		{server: unfiltered, want: 200, envoy: unfiltered},
	}
}

// writeAnswer writes the sidecar's answer to a check of the plan into a file, for the no-op server.
func (w *setup) writeAnswer(ctx context.Context, t *testing.T, s *server, p plan) (file string) {
	t.Helper()
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	q := p.Entries[len(p.Entries)/2] // a request whose token has a median number of scopes
	request := p.Templates[q.Template].fill(nil, []byte(key(q.Token)))
	var answer []byte
	if err := conn.Invoke(ctx, checkMethod, &request, &answer, grpc.ForceCodecV2(rawCodec{})); err != nil {
		t.Fatal(err)
	}
	if status, err := statusOf(answer); status != http.StatusOK {
		t.Fatal("the answer for the no-op server is a ", status, err)
	}
	file = filepath.Join(t.TempDir(), "answer")
	if err := os.WriteFile(file, answer, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// noFilter is the name of the Envoy without the ext_authz filter.
const noFilter = "no filter"

// connections is the number of client connections to Envoy. Each connection has one request in progress. These connections keep
// Envoy's worker busy.
const connections = 32

// oneWorker measures the maximum rate of an Envoy with one worker.
func oneWorker(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	return []caseFigures{w.inTurns(ctx, t, "one worker", w.startEnvoys(ctx, t, 1), *rounds, load{Plan: "http", Callers: connections})}
}

// workers measures the maximum rate of an Envoy with two workers.
func workers(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	return []caseFigures{w.inTurns(ctx, t, "two workers", w.startEnvoys(ctx, t, 2), *rounds, load{Plan: "http", Callers: connections})}
}

// latencyTurn is the length of a turn in which p99 is measured.
const latencyTurn = time.Second

// halfOfSaturation measures the latency at half of the maximum rate with keywicket.
func halfOfSaturation(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	sides := w.startEnvoys(ctx, t, 1)[:2]
	rate := w.saturation(ctx, t, sides[0]) / 2
	l := load{Plan: "http", Callers: connections, For: latencyTurn, Rate: rate, Details: true}
	return []caseFigures{w.inTurns(ctx, t, fmt.Sprintf("%.0f requests/s", rate), sides, max(1, *rounds/2), l)}
}

// rates measures the latency at several fractions of the maximum rate, for the plot.
func rates(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := w.startEnvoys(ctx, t, 1)
	maxRate := w.saturation(ctx, t, sides[0])
	for _, share := range []float64{.1, .25, .5, .6, .7, .8, .9, 1} {
		l := load{Plan: "http", Callers: 4 * connections, For: latencyTurn, Rate: share * maxRate, Details: true}
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%.0f requests/s", l.Rate), sides, fewerRounds(), l))
	}
	return cases
}

// saturation returns the maximum rate in requests a second.
func (w *setup) saturation(ctx context.Context, t *testing.T, s *comparedServer) float64 {
	t.Helper()
	c := w.inTurns(ctx, t, "", []*comparedServer{s}, 5, load{Plan: "http", Callers: connections})
	return c.median(s.name, checkRate)
}
