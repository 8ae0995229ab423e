package pool

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/store/database"
)

// fakeConnector opens a connection after a delay, or returns err. It counts the attempts.
type fakeConnector struct {
	driver.Connector
	mu       sync.Mutex
	delay    time.Duration
	err      error
	attempts int
	closed   atomic.Int64 // number of closed connections
}

// succeed makes the next attempts succeed after the delay.
func (d *fakeConnector) succeed(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay, d.err = delay, nil
}

func (d *fakeConnector) attemptCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attempts
}

func (d *fakeConnector) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	delay, err := d.delay, d.err
	d.attempts++
	d.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(delay):
	}
	if err != nil {
		return nil, err
	}
	return fakeConn{closed: &d.closed}, nil
}

type fakeConn struct {
	database.Connection
	closed *atomic.Int64
}

func (c fakeConn) Close() error                         { c.closed.Add(1); return nil }
func (fakeConn) IsValid() bool                          { return true }
func (fakeConn) ResetSession(context.Context) error     { return nil }
func (fakeConn) PrepareAhead(context.Context, []string) {}

func unusedCount(d *Dialer) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.unused)
}

func oneSidecar() int64 { return 1 }

func connect(d *Dialer, limit time.Duration) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.Connect(ctx)
}

func TestConnectionServesALaterCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: 500 * time.Millisecond}
		d := NewDialer(server, nil, time.Hour, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		for range 2 {
			if _, err := connect(d, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if _, err := connect(d, 200*time.Millisecond); err != nil {
			t.Error("the next look-up did not get the connection that was being opened: ", err)
		}
		if server.attemptCount() > MaxDials {
			t.Errorf("%d attempts for sequential look-ups", server.attemptCount())
		}
	})
}

// If a look-up gives up before its connection is open, this connection does not stay open forever.
func TestUnusedConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: 500 * time.Millisecond}
		d := NewDialer(server, nil, time.Hour, time.Minute, oneSidecar)
		defer func() { _ = d.Close() }()
		giveUp := func() {
			if _, err := connect(d, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if unusedCount(d) != 1 {
				t.Fatalf("%d connections are unused, not 1", unusedCount(d))
			}
		}
		giveUp()
		time.Sleep(time.Minute)
		if unusedCount(d) != 0 || server.closed.Load() != 1 {
			t.Errorf("%d connections are still open, and %d were closed", unusedCount(d), server.closed.Load())
		}
		giveUp()
		if _, err := connect(d, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if server.closed.Load() != 1 {
			t.Error("the connection of a look-up was closed")
		}
	})
}

func TestFailedConnectionIsRetriedAfterADelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		server := &fakeConnector{err: refused}
		d := NewDialer(server, nil, time.Hour, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		for begin := time.Now(); time.Since(begin) < 10*time.Second; {
			if _, err := connect(d, 200*time.Millisecond); !errors.Is(err, refused) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if server.attemptCount() < 30 || server.attemptCount() > 150 {
			t.Errorf("%d attempts in ten seconds", server.attemptCount())
		}
		server.succeed(0)
		time.Sleep(maxDialPause)
		if _, err := connect(d, time.Second); err != nil {
			t.Error(err)
		}
		refusing := &fakeConnector{err: refused}
		oneOfMany := NewDialer(refusing, nil, time.Hour, time.Hour, func() int64 { return 1000 })
		defer func() { _ = oneOfMany.Close() }()
		for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
			_, _ = connect(oneOfMany, time.Second)
		}
		if refusing.attemptCount() > 40 {
			t.Errorf("one of 1,000 sidecars has made %d attempts in twenty seconds", refusing.attemptCount())
		}
	})
}

// A lost packet can delay an attempt for seconds. During this time, the dialer starts further attempts.
func TestSlowConnectionDelaysNoOtherLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: time.Hour}
		d := NewDialer(server, nil, time.Hour, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		for range MaxDials {
			_, _ = connect(d, 200*time.Millisecond)
		}
		server.succeed(0)
		time.Sleep(slowDial)
		if _, err := connect(d, 200*time.Millisecond); err != nil {
			t.Error(err)
		}
	})
}

// Each new connection replaces only one old connection.
func TestNewConnectionReplacesOnlyOneOldConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: time.Millisecond} // because of the delay, no connection is open before this goroutine sleeps
		d := NewDialer(server, nil, time.Minute, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		var old []driver.Conn
		for range 8 {
			c, err := connect(d, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			old = append(old, c)
		}
		time.Sleep(time.Minute)
		for left := len(old); left > 0; {
			closed := 0
			for _, c := range old[:left] {
				if c.(*lookupConn).ResetSession(t.Context()) != nil {
					closed++
				}
			}
			if closed > 1 {
				t.Fatalf("%d connections are closed for one new connection", closed)
			}
			time.Sleep(2 * time.Millisecond)
			if closed == 1 {
				if _, err := connect(d, time.Millisecond); err != nil {
					t.Fatal(err)
				}
				left--
			}
		}
	})
}

// If the server changes while the dialer opens a connection to the previous server, the dialer closes this connection.
func TestConnectionsToTheFormerServerAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: time.Second}
		d := NewDialer(server, nil, time.Minute, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		_, _ = connect(d, time.Millisecond)
		if err := d.Drop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if unusedCount(d) != 0 {
			t.Error("the connection is kept for the next look-up")
		}
	})
}

func TestFailureOfAnOldAttemptIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{delay: 4 * time.Second, err: errors.New("lost")}
		d := NewDialer(server, nil, time.Minute, time.Hour, oneSidecar)
		_, _ = connect(d, time.Millisecond)
		time.Sleep(slowDial)
		server.succeed(0)
		for range 3 {
			if _, err := connect(d, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(4*time.Second - slowDial)
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.attempts != 0 || d.failure != nil {
			t.Errorf("%d attempts are in progress; the error of the last attempt: %v", d.attempts, d.failure)
		}
	})
}

// If the driver panics because of bytes from the server, the process must not end.
func TestPanicWhileConnectingIsAnError(t *testing.T) {
	d := NewDialer(panickingConnector{}, nil, time.Minute, time.Hour, oneSidecar)
	defer func() { _ = d.Close() }()
	if _, err := connect(d, time.Second); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Error(err)
	}
}

type panickingConnector struct{ driver.Connector }

func (panickingConnector) Connect(context.Context) (driver.Conn, error) {
	panic("slice bounds out of range")
}

func TestOldConnectionIsKeptUntilANewOneExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeConnector{}
		const lifetime = time.Minute
		d := NewDialer(server, nil, lifetime, time.Hour, oneSidecar)
		defer func() { _ = d.Close() }()
		conn, err := connect(d, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		use := func() error { return conn.(*lookupConn).ResetSession(t.Context()) }
		if err := use(); err != nil {
			t.Error(err)
		}
		time.Sleep(lifetime)
		server.succeed(time.Second)
		if err := use(); err != nil {
			t.Error("the connection is closed while there is no other connection: ", err)
		}
		time.Sleep(2 * time.Second)
		if err := use(); !errors.Is(err, driver.ErrBadConn) {
			t.Errorf("the connection is kept although another one is ready: %v", err)
		}
		if next, err := connect(d, time.Millisecond); err != nil || next == conn {
			t.Error(next, err)
		}
		if server.attemptCount() != 2 {
			t.Errorf("%d attempts", server.attemptCount())
		}
	})
}
