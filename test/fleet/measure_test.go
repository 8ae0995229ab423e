package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/internal/machine"
)

var (
	sizes = flag.String("measure", "", "numbers of sidecars to measure, such as 10,100,1000; empty: none")
	pool  = flag.Bool("pooled", false, "measure only fleets with a quarter of the sidecars behind PgBouncer, and hints for the others")
	bound = flag.Duration("bound", time.Second, "cache.staleness_bound of the sidecars that are measured")
)

// figures is the file of the measured values from which docs/scaling.svg is drawn.
const figures = "testdata/figures.json"

const (
	idleDuration = 30 * time.Second // duration of a measurement without changes; in this time, each connection is replaced once
	openWrites   = 20_000           // changes during a transaction that stays open
)

// figure is the cost of one fleet.
type figure struct {
	Sidecars int    `json:"sidecars"`
	Hints    bool   `json:"hints"`
	Pooled   int    `json:"pooled,omitempty"` // sidecars behind a pooler in transaction mode
	Bound    string `json:"bound"`            // cache.staleness_bound
	Date     string `json:"date"`
	Machine  string `json:"machine"`

	Load        float64 `json:"load"`                 // load average of the machine just before the fleet starts
	Cores       float64 `json:"cores"`                // processors that Postgres uses while no token changes
	BareCores   float64 `json:"bare_cores,omitempty"` // like Cores, for the same number of connections that run SELECT 1 at the same rate
	OwnCores    float64 `json:"own_cores"`            // processors that all sidecars together use while no token changes
	Polls       float64 `json:"polls_per_second"`     // readings of the log
	Connections float64 `json:"connections"`          // connections of each direct sidecar while no token changes
	Megabytes   float64 `json:"megabytes"`            // memory of Postgres for each sidecar, without shared memory

	Changes       int     `json:"changes"`
	ChangingCores float64 `json:"changing_cores"` // processors that Postgres uses while tokens change
	P50           float64 `json:"p50_ms"`         // time from COMMIT until a sidecar has read the change
	P99           float64 `json:"p99_ms"`
	Slowest       float64 `json:"slowest_ms"`
	BareP99       float64 `json:"bare_p99_ms,omitempty"` // p99 for the same number of connections that only run LISTEN
	Missed        int     `json:"missed"`

	PoolerConnections int     `json:"pooler_connections,omitempty"` // maximum number of connections of the pooler to Postgres
	PoolerCores       float64 `json:"pooler_cores,omitempty"`       // processors that the pooler uses while no token changes
	PooledP50         float64 `json:"pooled_p50_ms,omitempty"`      // like P50, for the sidecars behind the pooler
	PooledP99         float64 `json:"pooled_p99_ms,omitempty"`

	OpenWriteCores float64 `json:"open_write_cores,omitempty"` // like Cores, while one transaction is open and many others commit
	OpenWriteTook  float64 `json:"open_write_s,omitempty"`     // duration of the many commits
	OpenCores      float64 `json:"open_cores,omitempty"`       // like Cores, after the many commits, while the transaction is still open
	OpenMissed     int     `json:"open_missed,omitempty"`      // sidecars that missed the change of the open transaction

	Note string `json:"note,omitempty"` // describes the measured code if it is not the current code
}

// TestMeasure measures the fleets of -measure, which takes some minutes. Its figures are valid only on an otherwise idle machine.
func TestMeasure(t *testing.T) {
	if *sizes == "" {
		t.Skip("make fleet runs this measurement")
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		sidecars, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		if *pool {
			t.Run(fmt.Sprintf("%d sidecars, pooler", sidecars), func(t *testing.T) { measure(t, sidecars, true, true) })
			continue
		}
		for _, hints := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d sidecars, hints %t", sidecars, hints), func(t *testing.T) { measure(t, sidecars, hints, false) })
		}
	}
}

func measure(t *testing.T, sidecars int, hints, pooled bool) {
	name, load, err := machine.Describe()
	if err != nil {
		t.Fatal(err)
	}
	m := figure{Sidecars: sidecars, Hints: hints, Bound: bound.String(), Date: time.Now().Format(time.DateOnly), Machine: name, Load: load}
	if sidecars >= 1000 && !pooled {
		m.BareCores = barePolls(t, sidecars, *bound*2/7)
	}
	f := newFleet(t, sidecars, hints, pooled, *bound, 30*time.Second)
	if pooled {
		m.Pooled = sidecars / pooledShare
	}
	tokens, kept := f.createTokens(t, 48), f.createTokens(t, 2)
	f.cacheTokens(t, kept)
	time.Sleep(10 * time.Second) // until the sidecars have recorded the use of the tokens

	m.Megabytes = privateMemory(t) / float64(sidecars)
	connections := func() (each float64) {
		direct, ofPooler := f.connections(t)
		m.PoolerConnections = max(m.PoolerConnections, ofPooler)
		return float64(direct) / float64(sidecars-m.Pooled)
	}
	m.Connections = connections()
	polls, ownBefore, ofPooler := f.polls(t), ownCPU(t), f.poolerCPU(t)
	begin := time.Now()
	m.Cores = cores(t, func() { time.Sleep(idleDuration) })
	took := time.Since(begin).Seconds()
	m.Polls, m.OwnCores = float64(f.polls(t)-polls)/took, (ownCPU(t)-ownBefore).Seconds()/took
	m.PoolerCores = (f.poolerCPU(t) - ofPooler).Seconds() / took
	m.Connections = max(m.Connections, connections())

	// In production each sidecar has its own garbage collector. Here all sidecars would share one garbage collector, so the
	// test switches it off.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	w := f.watch()
	const writers, hold = 8, 4 * time.Second // three changes a second
	var received, receivedPooled []time.Duration
	m.ChangingCores = cores(t, func() {
		var writing sync.WaitGroup
		writing.Go(func() { f.revoke(t, append(tokens, kept[0]), writers, hold, w.recordCommit) })
		received, receivedPooled, m.Missed = w.awaitCommits(len(tokens) + 1)
		writing.Wait()
	})
	m.Changes = len(tokens) + 1
	slices.Sort(received)
	if len(received) > 0 {
		m.P50, m.P99, m.Slowest = milliseconds(received[len(received)/2]), milliseconds(received[len(received)*99/100]), milliseconds(received[len(received)-1])
	}
	slices.Sort(receivedPooled)
	if len(receivedPooled) > 0 {
		m.PooledP50, m.PooledP99 = milliseconds(receivedPooled[len(receivedPooled)/2]), milliseconds(receivedPooled[len(receivedPooled)*99/100])
	}
	f.requireRevoked(t, kept[:1]) // sends look-ups to each sidecar, so that the fleet is no longer idle
	connections()
	if hints && !pooled {
		m.BareP99 = f.bareListeners(t)
	}
	if n := w.duplicates(); n > 0 && !hints {
		t.Errorf("%d changes were read twice", n)
	}
	if sidecars >= 1000 && !pooled {
		f.measureOpenTransaction(t, &m, kept[1])
	}
	if m.Missed > 0 || m.OpenMissed > 0 {
		t.Errorf("changes were missed: %+v", m)
	}
	if m.PoolerConnections > poolSize || pooled == (m.PoolerConnections == 0) {
		t.Errorf("the pooler has %d connections", m.PoolerConnections)
	}
	saveFigure(t, m)
	t.Logf("%+v", m)
}

// bareListeners returns the p99 delay of a notification in milliseconds, for one connection per sidecar. The connections only
// listen. They use another database than the sidecars, because Postgres wakes all listeners of a database.
func (f *fleet) bareListeners(t *testing.T) float64 {
	t.Helper()
	const channel, notifications = "bare", 49
	db := open(t, server.URL("postgres"))
	var mu sync.Mutex
	var arrived [notifications][]time.Time
	var listening sync.WaitGroup
	for range f.sidecars {
		l := pq.NewListener(withParameter(t, server.URL("postgres"), "application_name", "bare"), time.Second, time.Second, nil)
		defer func() { _ = l.Close() }()
		if err := l.Listen(channel); err != nil {
			t.Fatal(err)
		}
		listening.Go(func() {
			for n := range notifications {
				<-l.Notify
				now := time.Now()
				mu.Lock()
				arrived[n] = append(arrived[n], now)
				mu.Unlock()
			}
		})
	}
	var committed [notifications]time.Time
	for n := range notifications {
		if _, err := db.ExecContext(t.Context(), `SELECT pg_notify($1, $2)`, channel, strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		committed[n] = time.Now()
		time.Sleep(350 * time.Millisecond)
	}
	listening.Wait()
	var took []time.Duration
	for n, all := range arrived {
		for _, at := range all {
			took = append(took, at.Sub(committed[n]))
		}
	}
	slices.Sort(took)
	return milliseconds(took[len(took)*99/100])
}

// barePolls opens the given number of connections, and runs SELECT 1 at the interval in each of them. It returns the cores that
// Postgres uses. This is the cost of a wake-up, of a few bytes to read and write, and of the smallest possible query.
func barePolls(t *testing.T, connections int, interval time.Duration) float64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var polling sync.WaitGroup
	defer polling.Wait()
	defer cancel()
	for range connections {
		db, err := sqlx.ConnectContext(ctx, "postgres", server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		query, err := db.PreparexContext(ctx, `SELECT 1`)
		if err != nil {
			t.Fatal(err)
		}
		polling.Go(func() {
			defer func() { _ = db.Close() }()
			time.Sleep(rand.N(interval))
			for tick := time.NewTicker(interval); ctx.Err() == nil; <-tick.C {
				var n int
				if err := query.GetContext(ctx, &n); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return cores(t, func() { time.Sleep(idleDuration) })
}

// measureOpenTransaction revokes the token in a transaction that stays open while many other transactions commit.
func (f *fleet) measureOpenTransaction(t *testing.T, m *figure, open token) {
	t.Helper()
	tx, err := f.db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), revoke, open.id); err != nil {
		t.Fatal(err)
	}
	const writers = 4
	busy := f.createTokens(t, writers)
	begin := time.Now()
	m.OpenWriteCores = cores(t, func() {
		var writing sync.WaitGroup
		for _, k := range busy {
			writing.Go(func() {
				for range openWrites / writers {
					if _, err := f.db.ExecContext(t.Context(), revoke, k.id); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		writing.Wait()
	})
	m.OpenWriteTook = time.Since(begin).Seconds()
	m.OpenCores = cores(t, func() { time.Sleep(idleDuration) })
	before := make([]uint64, len(f.sidecars))
	for i, d := range f.sidecars {
		before[i] = d.CacheStats().Changes
	}
	f.cacheTokens(t, []token{open})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := eventually("the transaction's change is read", func() bool {
		m.OpenMissed = 0
		for i, d := range f.sidecars {
			if d.CacheStats().Changes == before[i] {
				m.OpenMissed++
			}
		}
		return m.OpenMissed == 0
	}); err != nil {
		t.Error(err)
	}
	f.requireRevoked(t, []token{open})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// polls returns the number of readings of the log so far. Each reading scans the table keywicket.world once, and almost no
// other query scans this table.
func (f *fleet) polls(t *testing.T) int {
	t.Helper()
	return queryValue[int](t, f.db, `SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relid = 'keywicket.world'::regclass`)
}

// cores calls the parameter `action`, and returns how many processors Postgres used during the call.
func cores(t *testing.T, action func()) float64 {
	t.Helper()
	before, begin := postgresCPU(t), time.Now()
	action()
	return (postgresCPU(t) - before).Seconds() / time.Since(begin).Seconds()
}

// postgresCPU returns the CPU time that the server and its child processes have used. This includes exited child processes. It
// reads schedstat, because stat counts in ticks of 10 ms. Many backends use only about one tick during a measurement.
func postgresCPU(t *testing.T) (total time.Duration) {
	t.Helper()
	for _, p := range processes(t) {
		total += p.used
	}
	const (
		tick         = 10 * time.Millisecond // unit of the times in stat, on every platform of Linux
		user, system = 13, 14                // indexes of the CPU times of exited children, among the fields after the name
	)
	_, fields, err := stat(server.PID())
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += time.Duration(n) * tick
	}
	return total
}

type process struct {
	pid  int
	used time.Duration // CPU time
}

// processes returns the server and its children.
func processes(t *testing.T) (all []process) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, _, err := stat(pid)
		if err != nil || pid != server.PID() && parent != server.PID() {
			continue
		}
		used, err := processCPU(pid)
		if err != nil {
			continue // the process has exited
		}
		all = append(all, process{pid, used})
	}
	return all
}

// processCPU returns the CPU time of a process with one thread so far.
func processCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var used int64 // nanoseconds
	_, err = fmt.Sscan(string(text), &used)
	return time.Duration(used), err
}

// poolerCPU returns the CPU time of the pooler so far. Without a pooler, it returns 0.
func (f *fleet) poolerCPU(t *testing.T) time.Duration {
	t.Helper()
	if f.pooler == nil {
		return 0
	}
	used, err := processCPU(f.pooler.PID())
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// stat returns the parent of a process, and the fields of /proc/…/stat after the name.
func stat(pid int) (parent int, fields []string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, nil, err // the process has exited
	}
	fields = strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	parent, err = strconv.Atoi(fields[1])
	return parent, fields, err
}

// privateMemory returns the unshared memory of all Postgres processes, in megabytes.
func privateMemory(t *testing.T) (megabytes float64) {
	t.Helper()
	for _, p := range processes(t) {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if err != nil {
			continue // the process has exited
		}
		for line := range strings.Lines(string(rollup)) {
			var kilobytes float64
			if n, _ := fmt.Sscanf(line, "Private_Dirty: %f kB", &kilobytes); n == 1 {
				megabytes += kilobytes / 1024
			}
		}
	}
	return megabytes
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// saveFigure saves the figure, and replaces the earlier figure of the same fleet.
func saveFigure(t *testing.T, m figure) {
	t.Helper()
	all := slices.DeleteFunc(readFigures(t), func(old figure) bool {
		return old.Sidecars == m.Sidecars && old.Hints == m.Hints && old.Pooled == m.Pooled && old.Bound == m.Bound
	})
	all = append(all, m)
	slices.SortFunc(all, func(a, b figure) int {
		if a.Hints != b.Hints {
			return map[bool]int{false: -1, true: 1}[a.Hints]
		}
		return cmp.Or(a.Sidecars-b.Sidecars, a.Pooled-b.Pooled, strings.Compare(a.Bound, b.Bound))
	})
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(figures, append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFigures(t *testing.T) (all []figure) {
	t.Helper()
	text, err := os.ReadFile(figures)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}
