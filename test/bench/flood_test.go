// Package bench measures a running sidecar from outside: the real binary, a real Postgres, and clients in separate processes.
// `make bench-envoy` measures checks for docs/benchmarks. It compares them with checks by a server that decides nothing, and
// also sends checks through a real Envoy. `make bench-flood` measures checks of valid tokens during a flood of unknown tokens.
// All figures are ratios between alternating windows of time, because absolute times of one machine do not apply to others.
package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/test/program"
)

var (
	baseline  = flag.String("baseline", "", "keywicket binaries to compare with the binary of this tree, separated by spaces")
	rate      = flag.Int("flood", 2000, "unknown tokens a second")
	latency   = flag.Duration("latency", 0, "added delay of the database's answers to look-ups")
	malformed = flag.Bool("malformed", false, "flood with malformed tokens, which are refused without a look-up")
	window    = flag.Duration("window", 2*time.Second, "duration of one window")
)

// floodVariable is an environment variable. If it is set, this test binary is the flooding client. The flood is a separate
// process, so that it does not affect the measured client's times.
const floodVariable = "KEYWICKET_BENCH_FLOOD"

// These are the rates of the measured client, in checks per second.
const (
	cachedRate   = 500
	uncachedRate = 200
	unknownRate  = 100

	tokens      = 400_000 // number of tokens in the database; the sidecar caches the first cachedCount of them
	cachedCount = 50
)

var format = authz.CredentialFormat{
	Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38,
}

// BenchmarkFlood measures checks of valid cached, valid uncached and unknown tokens, with and without a flood. The flood
// consists of well-formed unknown tokens, each used once. For each binary, an iteration is one window with the flood and one
// without. Run this benchmark with -benchtime 8x or more.
func BenchmarkFlood(b *testing.B) {
	databaseURL := newDatabase(b)
	sides := []*side{newSide(b, "here", build(b), databaseURL)}
	for _, path := range strings.Fields(*baseline) {
		sides = append(sides, newSide(b, filepath.Base(path), path, databaseURL))
	}
	for _, s := range sides {
		s.measure(false) // warms up; the result is not counted
		s.measure(true)
		s.quiet, s.flooded = measured{}, measured{}
	}
	for round := 0; b.Loop(); round++ {
		for i := range sides {
			s := sides[(i+round)%len(sides)]
			s.measure(round%2 == 0)
			s.measure(round%2 != 0)
		}
	}
	b.ReportMetric(0, "ns/op") // hides the default value, which would be the length of the windows
	for _, s := range sides {
		s.report(b)
	}
}

// side is a sidecar with its flood and its client.
type side struct {
	name   string
	client authv3.AuthorizationClient
	flood  *floodProcess
	next   *atomic.Int64 // the next unused token

	quiet, flooded measured
}

// measured contains the results of all windows of one kind.
type measured struct {
	cached, uncached, unknown latencies
	wrong                     map[string]int // unexpected outcomes, by the kind of token
}

// latencies contains the latencies of each window.
type latencies [][]time.Duration

// quantile returns the median of the windows' quantiles, so that one window on a busy machine has little effect.
func (l latencies) quantile(q float64) time.Duration {
	var each []time.Duration
	for _, window := range l {
		if len(window) > 0 {
			slices.Sort(window)
			each = append(each, window[min(len(window)-1, int(q*float64(len(window))))])
		}
	}
	if len(each) == 0 {
		return 0
	}
	slices.Sort(each)
	return each[len(each)/2]
}

func (l latencies) count() (n int) {
	for _, window := range l {
		n += len(window)
	}
	return n
}

func newSide(b *testing.B, name, binary, databaseURL string) *side {
	b.Helper()
	address := startSidecar(b, binary, databaseURL)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	s := &side{name: name, client: authv3.NewAuthorizationClient(conn), flood: startFlood(b, address), next: new(atomic.Int64)}
	s.next.Store(cachedCount)
	return s
}

// measure adds one window to the results.
func (s *side) measure(flooded bool) {
	into := &s.quiet
	if flooded {
		into = &s.flooded
		s.flood.begin()
		time.Sleep(200 * time.Millisecond) // until the flood is steady
	}
	if into.wrong == nil {
		into.wrong = make(map[string]int)
	}
	for _, l := range []*latencies{&into.cached, &into.uncached, &into.unknown} {
		*l = append(*l, nil)
	}
	var mu sync.Mutex
	record := func(to *latencies, what, want string, key authz.Secret, cache string) {
		took, outcome, from := sendCheck(s.client, key)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case outcome != want:
			into.wrong[what+": "+outcome]++
		case cache == "" || cache == from:
			last := &(*to)[len(*to)-1]
			*last = append(*last, took)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		var i atomic.Int64
		paced(cachedRate, *window, func() {
			record(&into.cached, "cached", "allow", validKey(i.Add(1)%cachedCount), string(authz.CacheHit))
		})
	})
	wg.Go(func() {
		paced(uncachedRate, *window, func() {
			record(&into.uncached, "uncached", "allow", validKey(s.next.Add(1)%tokens), string(authz.CacheMiss))
		})
	})
	wg.Go(func() {
		paced(unknownRate, *window, func() { record(&into.unknown, "unknown", "401", format.NewKey(), "") })
	})
	wg.Wait()
	if flooded {
		for outcome, n := range s.flood.end() {
			into.wrong["flood: "+outcome] += n
		}
		time.Sleep(200 * time.Millisecond) // until all checks of the flood have ended
	}
}

func (s *side) report(b *testing.B) {
	b.Helper()
	for _, c := range []struct {
		what           string
		quiet, flooded latencies
	}{
		{"cached", s.quiet.cached, s.flooded.cached},
		{"uncached", s.quiet.uncached, s.flooded.uncached},
		{"unknown", s.quiet.unknown, s.flooded.unknown},
	} {
		p50, p99 := c.quiet.quantile(.5), c.quiet.quantile(.99)
		f50, f99 := c.flooded.quantile(.5), c.flooded.quantile(.99)
		fmt.Printf("%-8s %-8s quiet p50 %8v p99 %8v (%d)   flood p50 %8v p99 %8v (%d)   ratio p50 %.2f p99 %.2f\n", s.name, c.what,
			p50.Round(time.Microsecond), p99.Round(time.Microsecond), c.quiet.count(),
			f50.Round(time.Microsecond), f99.Round(time.Microsecond), c.flooded.count(),
			float64(f50)/float64(p50), float64(f99)/float64(p99))
		b.ReportMetric(float64(f99)/float64(p99), s.name+"-"+c.what+"-p99-ratio")
	}
	fmt.Printf("%-8s quiet: %v   flood: %v\n", s.name, s.quiet.wrong, s.flooded.wrong)
}

// sendCheck returns the duration of the check, the outcome ("allow", or the status of the denial), and whether the answer came
// from the cache.
func sendCheck(client authv3.AuthorizationClient, key authz.Secret) (took time.Duration, outcome, cache string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	request := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"api": "velocity"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: http.MethodGet, Path: "/api/issues",
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: "authorization", RawValue: []byte("Bearer " + key.Reveal())},
			}},
		}},
	}}
	startTime := time.Now()
	answer, err := client.Check(ctx, request)
	took = time.Since(startTime)
	switch {
	case err != nil:
		return took, err.Error(), ""
	case answer.GetStatus().GetCode() == int32(codes.OK):
		return took, "allow", answer.GetDynamicMetadata().GetFields()["cache"].GetStringValue()
	}
	return took, fmt.Sprint(int32(answer.GetDeniedResponse().GetStatus().GetCode())), ""
}

// paced starts perSecond calls of f a second, without waiting for earlier calls. At the end, it waits for all calls.
func paced(perSecond int, length time.Duration, f func()) {
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begin, begun := time.Now(), 0; time.Since(begin) < length; <-tick.C {
		for due := int(time.Since(begin).Seconds() * float64(perSecond)); begun < due; begun++ {
			calls.Go(f)
		}
	}
}

// newDatabase returns the URL of a migrated database with the tokens.
func newDatabase(b *testing.B) string {
	b.Helper()
	ctx := b.Context()
	server, err := postgres.Start(ctx, postgres.Config{Settings: map[string]string{"max_connections": "200"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Close() })
	databaseURL := server.URL("postgres")
	db, err := database.Open(databaseURL)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := schema.Migrate(ctx, db); err != nil {
		b.Fatal(err)
	}
	r, err := registry.Open(ctx, databaseURL)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	home, err := r.CreateWorkspace(ctx, registry.Workspace{Slug: "acme", Name: "Acme"})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(('vel_' || lpad(n::text, 38, '0'))::bytea), 't', '{issues:read}', $1
		FROM generate_series(0, $2 - 1) n`, home.ID, tokens); err != nil {
		b.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `VACUUM ANALYZE`); err != nil {
		b.Fatal(err)
	}
	return withRole(b, databaseURL)
}

func validKey(n int64) authz.Secret { return authz.Secret(fmt.Sprintf("vel_%038d", n)) }

func build(b testing.TB) string {
	b.Helper()
	path, err := program.Keywicket()
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// startSidecar starts a sidecar and returns its address for checks.
func startSidecar(b *testing.B, binary, databaseURL string) string {
	b.Helper()
	free := freeAddresses(b, 2)
	checks, operations := free[0], free[1]
	p, err := process.Start(process.Config{Path: binary, Args: []string{"serve"}, Env: append(os.Environ(),
		"KEYWICKET_DATABASE_URL="+delayedDatabase(b, databaseURL), "KEYWICKET_DATABASE_FEED_URL="+databaseURL, "KEYWICKET_LISTEN_GRPC="+checks, "KEYWICKET_LISTEN_OPERATIONS="+operations,
		"KEYWICKET_LISTEN_LAME_DUCK=0s")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Stop(10 * time.Second) })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + operations + "/readyz")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return checks
			}
		}
		if time.Now().After(deadline) || p.Err() != nil {
			b.Fatal("the sidecar is not ready: ", errors.Join(err, p.Err()))
		}
	}
}

// delayedDatabase returns the URL of a proxy that delays the database's answers. Without a delay, it returns the database's
// URL.
func delayedDatabase(b *testing.B, databaseURL string) string {
	b.Helper()
	if *latency == 0 {
		return databaseURL
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		b.Fatal(err)
	}
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "far", "127.0.0.1:0", u.Host)
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Stop)
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": "t", "type": "latency", "stream": "downstream", "attributes": {"latency": %d}}`, latency.Milliseconds()))); err != nil {
		b.Fatal(err)
	}
	u.Host = p.Listen
	return u.String()
}

// floodProcess is a child process that sends the flood between the calls of begin and end.
type floodProcess struct {
	commands io.Writer
	results  *bufio.Scanner
}

func startFlood(b *testing.B, address string) *floodProcess {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command(self, "-flood", fmt.Sprint(*rate), "-malformed="+fmt.Sprint(*malformed))
	c.Env = append(os.Environ(), floodVariable+"="+address)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	return &floodProcess{in, bufio.NewScanner(out)}
}

func (f *floodProcess) begin() { _, _ = io.WriteString(f.commands, "begin\n") }

// end returns the number of checks for each outcome.
func (f *floodProcess) end() (outcomes map[string]int) {
	_, _ = io.WriteString(f.commands, "end\n")
	if !f.results.Scan() || json.Unmarshal(f.results.Bytes(), &outcomes) != nil {
		return map[string]int{"the flooding process has exited": 1}
	}
	return outcomes
}

// flood is the child process. It is an open loop: a slow answer does not slow the flood.
func flood(address string, commands io.Reader, results io.Writer) error {
	flag.Parse()
	var clients []authv3.AuthorizationClient
	for range 2 {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		clients = append(clients, authv3.NewAuthorizationClient(conn))
	}
	var stop chan struct{}
	var running sync.WaitGroup
	var mu sync.Mutex
	outcomes := make(map[string]int)
	for lines := bufio.NewScanner(commands); lines.Scan(); {
		switch strings.TrimSpace(lines.Text()) {
		case "begin":
			stop = make(chan struct{})
			running.Go(func() {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				began, sent := time.Now(), 0
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					for due := int(time.Since(began).Seconds() * float64(*rate)); sent < due; sent++ {
						client := clients[sent%len(clients)]
						running.Go(func() {
							_, outcome, _ := sendCheck(client, floodKey())
							mu.Lock()
							defer mu.Unlock()
							outcomes[outcome]++
						})
					}
				}
			})
		case "end":
			close(stop)
			running.Wait()
			if err := json.NewEncoder(results).Encode(outcomes); err != nil {
				return err
			}
			clear(outcomes)
		}
	}
	return nil
}

func floodKey() authz.Secret {
	if *malformed {
		return "unknown_form_0123456789"
	}
	return format.NewKey()
}
