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
	"slices"
	"sync"
	"sync/atomic"
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

// clientVariable makes this test binary the client that makes load, so that its work is in nobody's figures.
const clientVariable = "KEYWICKET_BENCH_CLIENT"

// plan is what the client asks for: forms and tokens in an order.
type plan struct {
	Name  string
	Forms []form
	Asks  []question
}

// question is one request of a plan.
type question struct {
	Token int64
	Form  int
}

// load is a window of checks.
type load struct {
	Plan    string
	Address string // host:port or unix:///path
	// Callers each have one check under way. All share one connection, as those of one worker of Envoy do.
	Callers int
	// For is how long checks are begun. Checks is how many at most; 0: any number.
	For    time.Duration
	Checks int
	// From is the place in the plan to begin at. Behind its end the plan begins anew.
	From int
	// Want is the status that every answer has to have.
	Want int
	// Rate is how many checks a second are begun at most; 0: any number.
	Rate float64
	// Details asks for what costs the client more: Hits and the latencies.
	Details bool
}

// result of a load.
type result struct {
	Checks  int
	Seconds float64
	Wrong   map[string]int // answers other than wanted
	Error   string

	// With Details:
	Hits     int // answers from memory
	P50, P99 time.Duration
}

// perSecond is how many checks were answered in a second.
func (r result) perSecond() float64 { return float64(r.Checks) / r.Seconds }

// command is a line to the client: a plan to remember, or a load to make.
type command struct {
	Learn *plan
	Run   *load
}

// client is the process that makes load.
type client struct {
	mu      sync.Mutex
	in      io.Closer
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
	c.SysProcAttr = process.Apart() // it ends with its standard input
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
	return &client{in: in, out: json.NewEncoder(in), results: json.NewDecoder(out)}
}

func (c *client) do(t testing.TB, what command) (r result) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(what); err != nil {
		t.Fatal("the client has ended: ", err)
	}
	if err := c.results.Decode(&r); err != nil {
		t.Fatal("the client has ended: ", err)
	}
	if r.Error != "" {
		t.Fatal("the client: ", r.Error)
	}
	return r
}

func (c *client) learn(t testing.TB, p plan) {
	t.Helper()
	c.do(t, command{Learn: &p})
}

// run makes the load. An answer other than wanted ends the test: what it costs is not what was to be measured.
func (c *client) run(t testing.TB, l load) result {
	t.Helper()
	r := c.do(t, command{Run: &l})
	if len(r.Wrong) > 0 {
		t.Fatalf("%s at %s: of %d answers, these are not a %d: %v", l.Plan, l.Address, r.Checks, l.Want, r.Wrong)
	}
	return r
}

// serveLoad is the client.
func serveLoad(commands io.Reader, results io.Writer) error {
	lines := make(chan command)
	go func() {
		for decoder := json.NewDecoder(bufio.NewReader(commands)); ; {
			var c command
			if decoder.Decode(&c) != nil {
				os.Exit(0) // the parent has ended, perhaps in the middle of a load
			}
			lines <- c
		}
	}()
	m := maker{plans: make(map[string]plan), connections: make(map[string]*grpc.ClientConn)}
	for c := range lines {
		var r result
		var err error
		if c.Learn != nil {
			m.plans[c.Learn.Name] = *c.Learn
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

// maker makes load.
type maker struct {
	plans       map[string]plan
	connections map[string]*grpc.ClientConn
}

// connection returns the one to the address, which stays open between loads.
func (m *maker) connection(address string) (*grpc.ClientConn, error) {
	if c := m.connections[address]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asBytes{})),
		// Windows of a fixed size, as Envoy's are: otherwise grpc-go measures the connection by pings.
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	m.connections[address] = c
	return c, nil
}

func (m *maker) run(l load) (r result, err error) {
	p, ok := m.plans[l.Plan]
	if !ok || len(p.Asks) == 0 {
		return r, fmt.Errorf("there is no plan %q", l.Plan)
	}
	conn, err := m.connection(l.Address)
	if err != nil {
		return r, err
	}
	var (
		begun    atomic.Int64
		mu       sync.Mutex
		callers  sync.WaitGroup
		failed   error
		all      []time.Duration
		start    = time.Now()
		end      = start.Add(l.For)
		finished = start
	)
	r.Wrong = make(map[string]int)
	for range l.Callers {
		callers.Go(func() {
			c := caller{conn: conn, load: l, plan: p, wrong: make(map[string]int)}
			for {
				n := int(begun.Add(1)) - 1
				if l.Checks > 0 && n >= l.Checks {
					break
				}
				if l.Rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(float64(n) / l.Rate * 1e9))))
				}
				if l.For > 0 && time.Now().After(end) {
					break
				}
				if c.failed = c.check(n); c.failed != nil {
					break
				}
			}
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if now.After(finished) {
				finished = now
			}
			r.Checks += c.checks
			r.Hits += c.hits
			for what, n := range c.wrong {
				r.Wrong[what] += n
			}
			all = append(all, c.took...)
			failed = errors.Join(failed, c.failed)
		})
	}
	callers.Wait()
	r.Seconds = finished.Sub(start).Seconds()
	if slices.Sort(all); len(all) > 0 {
		r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return r, failed
}

// caller has one check under way.
type caller struct {
	conn            *grpc.ClientConn
	load            load
	plan            plan
	request, answer []byte
	token           []byte
	metadata        context.Context
	checks, hits    int
	wrong           map[string]int
	took            []time.Duration
	failed          error
}

// check makes the nth check of the load.
func (c *caller) check(n int) error {
	a := c.plan.Asks[(c.load.From+n)%len(c.plan.Asks)]
	c.token = fmt.Appendf(c.token[:0], "vel_%038d", a.Token)
	c.request = c.plan.Forms[a.Form].fill(c.request, c.token)
	if c.metadata == nil { // as deploy/envoy has it
		c.metadata = metadata.AppendToOutgoingContext(context.Background(), "x-keywicket-client-address", "203.0.113.7")
	}
	ctx, cancel := context.WithTimeout(c.metadata, patience)
	start := time.Now()
	err := c.conn.Invoke(ctx, checkMethod, &c.request, &c.answer)
	cancel()
	if err != nil {
		c.request = nil // gRPC may still read it
		return err
	}
	c.checks++
	status, err := statusOf(c.answer)
	if err != nil {
		return err
	}
	if status != c.load.Want {
		c.wrong[fmt.Sprint(status)]++
	}
	if !c.load.Details {
		return nil
	}
	c.took = append(c.took, time.Since(start))
	var answer authv3.CheckResponse
	if err := proto.Unmarshal(c.answer, &answer); err != nil {
		return err
	}
	if answer.GetDynamicMetadata().GetFields()["cache"].GetStringValue() == "hit" {
		c.hits++
	}
	return nil
}

// patience is how long an answer may take. Envoy's own limit is 0.5 s, but a machine may be busy with something else.
const patience = 5 * time.Second

// statusOf is what a client of Envoy would get: 200, or the status of the denial. It reads no more of the answer than that.
func statusOf(answer []byte) (status int, err error) {
	const (
		statusField, deniedField = 1, 2 // of a CheckResponse
		codeField                = 1    // of a Status
		httpField                = 1    // of a DeniedHttpResponse
		httpCodeField            = 1    // of an HttpStatus
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

// number returns the number in a field; 0 where there is none.
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
