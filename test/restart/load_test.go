package restart

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// rate is the number of requests that the clients send per second. The clients do not wait for earlier responses.
const rate = 500

// load contains the requests that the clients send from startLoad to stopLoad.
type load struct {
	stack    *stack
	client   *http.Client
	began    time.Time
	stopping chan struct{}
	done     sync.WaitGroup

	mu          sync.Mutex
	requests    []request
	countedFrom time.Duration // requests contains only requests that were sent after this time
}

// request is a request and its result. The times are durations since the beginning of the load.
type request struct {
	sent, answered time.Duration
	failure        string // "": the request was allowed
}

// startLoad sends requests until stopLoad is called. It returns after one second in which all requests were allowed in time:
// connections are then open, and answers are cached. From then on, all requests should be allowed.
func (s *stack) startLoad(t *testing.T) *load {
	t.Helper()
	l := &load{
		stack: s, began: time.Now(), stopping: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: rate}, Timeout: 30 * time.Second},
	}
	t.Cleanup(l.client.CloseIdleConnections)
	l.done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for sent := 0; ; {
			select {
			case <-l.stopping:
				return
			case <-tick.C:
			}
			for ; sent < int(l.now().Seconds()*rate); sent++ {
				key := s.keys[sent%len(s.keys)]
				l.done.Go(func() { l.send(key) })
			}
		}
	})
	l.settle(t)
	return l
}

// settle waits until, for one second, all requests were allowed in time. It drops the requests that were recorded before this
// second.
func (l *load) settle(t *testing.T) {
	t.Helper()
	for range 60 {
		l.mu.Lock()
		l.requests, l.countedFrom = nil, l.now()
		l.mu.Unlock()
		time.Sleep(time.Second)
		l.mu.Lock()
		wrong := len(l.requests) < rate/2 || slices.ContainsFunc(l.requests, func(r request) bool {
			return r.failure != "" || r.answered-r.sent > slowRequest
		})
		l.mu.Unlock()
		if !wrong {
			return
		}
	}
	t.Fatalf("for one minute, there was no second in which all of the %d requests took less than %v: run this test alone", rate, slowRequest)
}

// now returns how long ago the load began.
func (l *load) now() time.Duration { return time.Since(l.began) }

func (l *load) send(key string) {
	r := request{sent: l.now()}
	r.failure = l.get(key)
	r.answered = l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
}

func (l *load) get(key string) (failure string) {
	q, err := http.NewRequest(http.MethodGet, l.stack.Velocity+"/api/issues", nil)
	if err != nil {
		return err.Error()
	}
	q.Header.Set("Authorization", "Bearer "+key)
	response, err := l.client.Do(q)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	switch {
	case err != nil:
		return err.Error()
	case response.StatusCode != http.StatusOK:
		return fmt.Sprintf("%d %s", response.StatusCode, body)
	}
	return ""
}

// stopLoad stops sending, and waits for the last response.
func (l *load) stopLoad() {
	close(l.stopping)
	l.done.Wait()
	slices.SortFunc(l.requests, func(a, b request) int { return int(a.sent - b.sent) })
}

// requireAllowed fails the test if requests failed. It ignores requests for which the parameter `isExcused` returns true. It also
// ignores a few failures while the whole machine was busy, and a few look-ups whose timeout the sidecar itself reported.
func (l *load) requireAllowed(t *testing.T, isExcused func(request) bool) {
	t.Helper()
	var failed []string
	var busyFailures int
	for _, r := range l.requests {
		switch {
		case r.failure == "" || isExcused(r):
		case l.busy(r), r.answered-r.sent >= timeout && strings.Contains(r.failure, "decision_id"):
			busyFailures++
		default:
			failed = append(failed, fmt.Sprintf("%v, after %v: %s", r.sent.Round(time.Millisecond),
				(r.answered-r.sent).Round(time.Millisecond), strings.TrimSpace(r.failure)))
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed (%.1f %%), the first at %s", len(failed), len(l.requests),
			100*float64(len(failed))/float64(len(l.requests)), strings.Join(failed[:min(3, len(failed))], "; at "))
	}
	if busyFailures > 0 {
		t.Logf("%d requests failed on a busy machine", busyFailures)
	}
	if busyFailures > len(l.requests)/1000 {
		t.Errorf("%d of %d requests failed because the machine is too busy: run this test alone", busyFailures, len(l.requests))
	}
}

// busy reports whether the machine was busy when the request r was sent or answered. For each of these two moments, it looks at
// the requests that were sent within 50 ms of the moment. The machine was busy if even the fastest quarter of these requests
// was slow. One of the two sidecars receives half of the requests. So a sidecar that does not answer cannot make the fastest
// quarter slow.
func (l *load) busy(r request) bool {
	const around = 50 * time.Millisecond
	for _, moment := range []time.Duration{r.sent, r.answered} {
		if took := l.durationsBetween([]time.Duration{moment}, -around, around); len(took) == 0 || took[len(took)/4] > slowRequest/5 {
			return true
		}
	}
	return false
}

const (
	// timeout is the time limit of a look-up. The limit of the whole check is 400 ms in the sidecar, and 500 ms in Envoy.
	timeout = 390 * time.Millisecond
	// slowRequest is longer than any request takes on a machine that is not busy.
	slowRequest = 100 * time.Millisecond
)

// durationsBetween returns the sorted durations of requests. It selects requests that were sent between m+from and m+to, where
// m is any of the moments.
func (l *load) durationsBetween(moments []time.Duration, from, to time.Duration) (took []time.Duration) {
	for _, r := range l.requests {
		if slices.ContainsFunc(moments, func(m time.Duration) bool { return r.sent >= m+from && r.sent < m+to }) {
			took = append(took, r.answered-r.sent)
		}
	}
	slices.Sort(took)
	return took
}

// report prints how long requests took at the beginning, and in windows of time after each of the moments.
func (l *load) report(t *testing.T, what string, moments []time.Duration) {
	t.Helper()
	printWindow := func(when string, moments []time.Duration, from, to time.Duration) {
		if took := l.durationsBetween(moments, from, to); len(took) > 0 {
			t.Logf("%-48s p50 %6.2f ms, p99 %6.2f ms, of %d requests", when,
				took[len(took)/2].Seconds()*1000, took[len(took)*99/100].Seconds()*1000, len(took))
		}
	}
	printWindow("before", []time.Duration{l.countedFrom}, 0, idleTime)
	const step = 250 * time.Millisecond
	for from := time.Duration(0); from < idleTime; from += step {
		printWindow(fmt.Sprintf("%v to %v after %s", from, from+step, what), moments, from, from+step)
	}
}

// idleTime is how long a test waits before the first event (a stop or a restart), and after the last event.
const idleTime = 2 * time.Second

var allowedChecks = regexp.MustCompile(`(?m)^keywicket_checks_total\{.*code="",.*\} (\S+)$`)

// checksOf returns how many checks the sidecar has allowed since its start.
func checksOf(t *testing.T, sidecar *demo.Sidecar) (n float64) {
	t.Helper()
	response, err := http.Get("http://" + sidecar.Operations + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range allowedChecks.FindAllSubmatch(text, -1) {
		value, err := strconv.ParseFloat(string(match[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		n += value
	}
	return n
}
