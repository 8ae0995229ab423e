package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/demo/process"
)

// clientVariable is an environment variable. If it is set, this test binary is the client that creates load. The client is a
// separate process, so that its CPU time is not part of a server's figures.
const clientVariable = "KEYWICKET_BENCH_CLIENT"

// plan is the sequence of a client's requests. Each request has a template and a token.
type plan struct {
	Name      string
	Templates []requestTemplate
	Entries   []planEntry
}

// planEntry is one request of a plan.
type planEntry struct {
	Token    int64
	Template int
}

// load describes a series of checks, or of requests to Envoy.
type load struct {
	Plan    string
	Address string // host:port or unix:///path
	// If HTTP is set, the templates are HTTP/1.1 requests to Envoy. Otherwise the templates are gRPC checks.
	HTTP bool
	// Callers is the number of concurrent callers. Each caller has one check in progress. gRPC callers share one connection, as
	// the requests of one Envoy worker do. Each HTTP caller has its own connection.
	Callers int
	// The callers start new checks for the duration For. Checks is the maximum number of checks; 0: no limit.
	For    time.Duration
	Checks int
	// From is the position in the plan at which the load starts. After the last entry of the plan, the load continues with
	// the first entry.
	From int
	// Want is the status that every answer must have.
	Want int
	// The callers start Rate checks a second, and do not wait for earlier answers. If Rate is 0, a caller starts the next check
	// when it has the answer to the previous check.
	Rate float64
	// Details adds results that cost the client more CPU time: the latencies and, for gRPC, Hits.
	Details bool
}

// result is the result of a load.
type result struct {
	Checks  int
	Seconds float64
	CPU     time.Duration  // CPU time of the client
	Wrong   map[string]int // status → number of answers, for each status other than Want
	Error   string

	// The next fields are set only with Details.
	Hits               int // answers from the cache
	P50, P90, P99, Max time.Duration
}

// perSecond returns how many checks were answered a second.
func (r result) perSecond() float64 { return float64(r.Checks) / r.Seconds }

// command is a line of the client's input: a plan to store, or a load to run.
type command struct {
	Store *plan
	Run   *load
}

// client is the process that creates load.
type client struct {
	mu      sync.Mutex
	stop    func() // stops the process, even during a load
	out     *json.Encoder
	results *json.Decoder
}

func startClient(t testing.TB) *client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), clientVariable+"=1")
	c.Stderr = os.Stderr
	c.SysProcAttr = process.OwnGroup() // the client exits when its standard input is closed
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	return &client{stop: func() { _ = in.Close() }, out: json.NewEncoder(in), results: json.NewDecoder(out)}
}

func (c *client) do(t testing.TB, what command) (r result) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(what); err != nil {
		t.Fatal("the client has exited: ", err)
	}
	if err := c.results.Decode(&r); err != nil {
		t.Fatal("the client has exited: ", err)
	}
	if r.Error != "" {
		t.Fatal("the client: ", r.Error)
	}
	return r
}

func (c *client) storePlan(t testing.TB, p plan) {
	t.Helper()
	c.do(t, command{Store: &p})
}

// run runs the load. Answers other than Want fail the test, because their cost is not what the test measures. On a busy
// machine, up to one answer in a hundred may be a 503 because of a timeout.
func (c *client) run(t testing.TB, l load) result {
	t.Helper()
	r := c.do(t, command{Run: &l})
	if len(r.Wrong) == 0 {
		return r
	}
	text := fmt.Sprintf("%s at %s: of %d answers, these are not a %d: %v", l.Plan, l.Address, r.Checks, l.Want, r.Wrong)
	if late := r.Wrong["503"]; len(r.Wrong) > 1 || late == 0 || late > max(1, r.Checks/100) {
		t.Fatal(text)
	}
	t.Log(text)
	return r
}

// serveLoad is the client process.
func serveLoad(commands io.Reader, results io.Writer) error {
	lines := make(chan command)
	go func() {
		for decoder := json.NewDecoder(bufio.NewReader(commands)); ; {
			var c command
			if decoder.Decode(&c) != nil {
				os.Exit(0) // the parent has exited, perhaps during a load
			}
			lines <- c
		}
	}()
	m := loadRunner{plans: make(map[string]plan), grpc: make(map[string]*grpc.ClientConn), http: make(map[string][]*httpConnection)}
	for c := range lines {
		var r result
		var err error
		if c.Store != nil {
			m.plans[c.Store.Name] = *c.Store
		} else {
			r, err = m.run(*c.Run)
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := json.NewEncoder(results).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// loadRunner runs loads. Its connections stay open between loads.
type loadRunner struct {
	plans map[string]plan
	grpc  map[string]*grpc.ClientConn
	http  map[string][]*httpConnection
}

// exchange sends a request and returns the status of the answer. The answer is stored in the buffer. The caller may reuse the
// buffer later.
type exchange func(request, buffer []byte) (status int, answer []byte, err error)

// exchangesFor returns one exchange for each caller.
func (m *loadRunner) exchangesFor(l load) (all []exchange, err error) {
	if l.HTTP {
		for len(m.http[l.Address]) < l.Callers {
			m.http[l.Address] = append(m.http[l.Address], &httpConnection{address: l.Address})
		}
		for _, c := range m.http[l.Address][:l.Callers] {
			all = append(all, c.exchange)
		}
		return all, nil
	}
	conn := m.grpc[l.Address]
	if conn == nil {
		conn, err = grpc.NewClient(l.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
			// The windows have a fixed size, as in Envoy. Without these options, grpc-go would measure the connection with
			// pings.
			grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20))
		if err != nil {
			return nil, err
		}
		m.grpc[l.Address] = conn
	}
	for range l.Callers {
		all = append(all, check(conn))
	}
	return all, nil
}

// check returns an exchange that sends a check with the metadata that Envoy sends.
func check(conn *grpc.ClientConn) exchange {
	sent := metadata.AppendToOutgoingContext(context.Background(), "x-keywicket-client-address", "203.0.113.7")
	return func(request, buffer []byte) (int, []byte, error) {
		ctx, cancel := context.WithTimeout(sent, answerTimeout)
		defer cancel()
		if err := conn.Invoke(ctx, checkMethod, &request, &buffer); err != nil {
			return 0, nil, err
		}
		status, err := statusOf(buffer)
		return status, buffer, err
	}
}

func (m *loadRunner) run(l load) (result, error) {
	p, ok := m.plans[l.Plan]
	if !ok || len(p.Entries) == 0 {
		return result{}, fmt.Errorf("there is no plan %q", l.Plan)
	}
	exchanges, err := m.exchangesFor(l)
	if err != nil {
		return result{}, err
	}
	var (
		callers sync.WaitGroup
		mu      sync.Mutex
		total   = caller{wrong: make(map[string]int)}
		start   = time.Now()
		ended   = start
		next    = l.schedule(start)
		failed  error
	)
	before, err := ownCPU()
	if err != nil {
		return result{}, err
	}
	for _, x := range exchanges {
		callers.Go(func() {
			c := caller{load: l, plan: p, exchange: x, wrong: make(map[string]int)}
			err := c.run(next)
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			total.merge(c)
			failed = errors.Join(failed, err)
			if now.After(ended) {
				ended = now
			}
		})
	}
	callers.Wait()
	used, err := ownCPU()
	if err != nil {
		return result{}, err
	}
	r := result{CPU: used - before, Checks: total.checks, Seconds: ended.Sub(start).Seconds(), Wrong: total.wrong, Hits: total.hits}
	if took := total.took; len(took) > 0 {
		slices.Sort(took)
		at := func(share float64) time.Duration { return took[min(len(took)-1, int(share*float64(len(took))))] }
		r.P50, r.P90, r.P99, r.Max = at(.5), at(.9), at(.99), took[len(took)-1]
	}
	return r, failed
}

// ownCPU returns the CPU time of this process so far.
func ownCPU() (time.Duration, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}

// schedule returns a function that returns the number and the due time of a caller's next check. ok is false if there is no
// next check.
func (l load) schedule(start time.Time) func() (n int, due time.Time, ok bool) {
	if l.Rate == 0 {
		var begun atomic.Int64
		return func() (int, time.Time, bool) {
			n, now := int(begun.Add(1))-1, time.Now()
			return n, now, (l.Checks == 0 || n < l.Checks) && (l.For == 0 || now.Sub(start) < l.For)
		}
	}
	all := int(l.For.Seconds() * l.Rate)
	due := func(n int) time.Time { return start.Add(time.Duration(float64(n) / l.Rate * 1e9)) }
	ready := make(chan int, all) // a buffer for due checks while all callers are busy
	go func() {
		defer close(ready)
		// time.Sleep may be a millisecond too long, because Go's runtime waits for the network at the same time.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for n := range all {
			if wait := time.Until(due(n)); wait > 0 {
				pause := syscall.NsecToTimespec(wait.Nanoseconds())
				_ = syscall.Nanosleep(&pause, nil)
			}
			ready <- n
		}
	}()
	return func() (int, time.Time, bool) {
		n, ok := <-ready
		return n, due(n), ok
	}
}

// caller runs one check at a time.
type caller struct {
	load     load
	plan     plan
	exchange exchange

	checks, hits int
	wrong        map[string]int
	took         []time.Duration // times from the due time of a check to its answer
}

func (c *caller) merge(other caller) {
	c.checks += other.checks
	c.hits += other.hits
	c.took = append(c.took, other.took...)
	for what, n := range other.wrong {
		c.wrong[what] += n
	}
}

func (c *caller) run(next func() (n int, due time.Time, ok bool)) error {
	var request, answer, token []byte
	for {
		n, due, ok := next()
		if !ok {
			return nil
		}
		q := c.plan.Entries[(c.load.From+n)%len(c.plan.Entries)]
		token = fmt.Appendf(token[:0], "vel_%038d", q.Token)
		request = c.plan.Templates[q.Template].fill(request, token)
		var status int
		var err error
		if status, answer, err = c.exchange(request, answer[:0]); err != nil {
			return err
		}
		c.checks++
		if status != c.load.Want {
			c.wrong[fmt.Sprint(status)]++
		}
		if !c.load.Details {
			continue
		}
		c.took = append(c.took, time.Since(due))
		if c.load.HTTP {
			continue
		}
		var check authv3.CheckResponse
		if err := proto.Unmarshal(answer, &check); err != nil {
			return err
		}
		if check.GetDynamicMetadata().GetFields()["cache"].GetStringValue() == "hit" {
			c.hits++
		}
	}
}

// answerTimeout is the time limit of an answer. It is longer than Envoy's own limit of 0.5 s, because the machine may be busy.
const answerTimeout = 5 * time.Second

// statusOf returns the status that a client of Envoy would get: 200, or the status of the denial. It decodes only the
// necessary fields.
func statusOf(answer []byte) (status int, err error) {
	const (
		statusField, deniedField = 1, 2 // field numbers in a CheckResponse
		codeField                = 1    // field number in a Status
		httpField                = 1    // field number in a DeniedHttpResponse
		httpCodeField            = 1    // field number in an HttpStatus
	)
	s, ok, err := field(answer, statusField)
	if err != nil || !ok {
		return 0, errors.Join(err, errors.New("the answer has no status"))
	}
	code, err := number(s, codeField)
	if err != nil || code == 0 {
		return 200, err
	}
	d, _, err := field(answer, deniedField)
	if err != nil {
		return 0, err
	}
	h, _, err := field(d, httpField)
	if err != nil {
		return 0, err
	}
	return number(h, httpCodeField)
}

// field returns the message in a field.
func field(message []byte, number protowire.Number) (value []byte, ok bool, err error) {
	for len(message) > 0 {
		at, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, false, protowire.ParseError(n)
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(at, kind, message)
		if n < 0 {
			return nil, false, protowire.ParseError(n)
		}
		if at == number && kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(message)
			return value, true, nil
		}
		message = message[n:]
	}
	return nil, false, nil
}

// number returns the number in a field, or 0 if the field is absent.
func number(message []byte, number protowire.Number) (int, error) {
	for len(message) > 0 {
		at, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
		if at == number && kind == protowire.VarintType {
			value, _ := protowire.ConsumeVarint(message)
			return int(value), nil //nolint:gosec // a status
		}
		if n = protowire.ConsumeFieldValue(at, kind, message); n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return 0, nil
}
