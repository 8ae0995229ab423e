package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// dialing makes connections as it is told, and counts the attempts.
type dialing struct {
	driver.Connector
	mu       sync.Mutex
	takes    time.Duration
	fails    error
	attempts int
}

// succeed has the next attempts succeed.
func (d *dialing) succeed(takes time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes, d.fails = takes, nil
}

func (d *dialing) counted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attempts
}

func (d *dialing) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	takes, fails := d.takes, d.fails
	d.attempts++
	d.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(takes):
	}
	if fails != nil {
		return nil, fails
	}
	return &connection{fullConn: closable{}, made: time.Now()}, nil
}

type closable struct{ fullConn }

func (closable) Close() error                       { return nil }
func (closable) IsValid() bool                      { return true }
func (closable) ResetSession(context.Context) error { return nil }

func ready(d *dials) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ready)
}

func one() int64 { return 1 }

func connect(d *dials, limit time.Duration) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.Connect(ctx)
}

func TestConnectionIsMadeForWhoComesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{takes: 500 * time.Millisecond}
		d := newDials(server, nil, time.Hour, one)
		defer func() { _ = d.Close() }()
		for range 2 {
			if _, err := connect(d, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if _, err := connect(d, 200*time.Millisecond); err != nil {
			t.Error("the connection that was being made has come to nobody: ", err)
		}
		if server.counted() > maxDials {
			t.Errorf("%d attempts for look-ups that came one after the other", server.counted())
		}
	})
}

func TestFailedConnectingIsNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		server := &dialing{fails: refused}
		d := newDials(server, nil, time.Hour, one)
		defer func() { _ = d.Close() }()
		for begin := time.Now(); time.Since(begin) < 10*time.Second; {
			if _, err := connect(d, 200*time.Millisecond); !errors.Is(err, refused) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if server.counted() < 30 || server.counted() > 150 {
			t.Errorf("%d attempts in ten seconds", server.counted())
		}
		server.succeed(0)
		time.Sleep(longestDialPause)
		if _, err := connect(d, time.Second); err != nil {
			t.Error(err)
		}
		refusing := &dialing{fails: refused}
		many := newDials(refusing, nil, time.Hour, func() int64 { return 1000 })
		defer func() { _ = many.Close() }()
		for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
			_, _ = connect(many, time.Second)
		}
		if refusing.counted() > 40 {
			t.Errorf("one of 1,000 sidecars has tried %d times in twenty seconds", refusing.counted())
		}
	})
}

// A packet that is lost keeps a connection from being made for seconds. Others are tried beside it.
func TestSlowConnectingHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{takes: time.Hour}
		d := newDials(server, nil, time.Hour, one)
		defer func() { _ = d.Close() }()
		for range maxDials {
			_, _ = connect(d, 200*time.Millisecond)
		}
		server.succeed(0)
		time.Sleep(slowDial)
		if _, err := connect(d, 200*time.Millisecond); err != nil {
			t.Error(err)
		}
	})
}

// One new connection takes the place of one old one, however many are used at the moment.
func TestOneNewConnectionReplacesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{takes: time.Millisecond} // so none is ready before this goroutine sleeps
		d := newDials(server, nil, time.Minute, one)
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
			given := 0
			for _, c := range old[:left] {
				if c.(*connection).ResetSession(t.Context()) != nil {
					given++
				}
			}
			if given > 1 {
				t.Fatalf("%d connections are given up for one that is new", given)
			}
			time.Sleep(2 * time.Millisecond)
			if given == 1 {
				if _, err := connect(d, time.Millisecond); err != nil {
					t.Fatal(err)
				}
				left--
			}
		}
	})
}

// What was made for the server that is not the current one any more is of no use.
func TestConnectionsToTheOtherServerAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{takes: time.Second}
		d := newDials(server, nil, time.Minute, one)
		defer func() { _ = d.Close() }()
		_, _ = connect(d, time.Millisecond)
		if err := d.drop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if ready(d) != 0 {
			t.Error("it is kept for the next look-up")
		}
	})
}

func TestFailureOfAnOldAttemptSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{takes: 4 * time.Second, fails: errors.New("lost")}
		d := newDials(server, nil, time.Minute, one)
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
		if d.underway != 0 || d.failure != nil {
			t.Errorf("%d attempts are under way; the last one has failed: %v", d.underway, d.failure)
		}
	})
}

// The server's bytes may be anybody's: a panic of the driver must not end the process.
func TestPanicWhileConnectingIsAnError(t *testing.T) {
	d := newDials(panics{}, nil, time.Minute, one)
	defer func() { _ = d.Close() }()
	if _, err := connect(d, time.Second); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Error(err)
	}
}

type panics struct{ driver.Connector }

func (panics) Connect(context.Context) (driver.Conn, error) { panic("slice bounds out of range") }

func TestOldConnectionIsKeptUntilThereIsANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &dialing{}
		const lifetime = time.Minute
		d := newDials(server, nil, lifetime, one)
		defer func() { _ = d.Close() }()
		made, err := connect(d, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		use := func() error { return made.(*connection).ResetSession(t.Context()) }
		if err := use(); err != nil {
			t.Error(err)
		}
		time.Sleep(lifetime)
		server.succeed(time.Second)
		if err := use(); err != nil {
			t.Error("it is given up while there is no other: ", err)
		}
		time.Sleep(2 * time.Second)
		if err := use(); !errors.Is(err, driver.ErrBadConn) {
			t.Errorf("it is kept although there is another: %v", err)
		}
		if next, err := connect(d, time.Millisecond); err != nil || next == made {
			t.Error(next, err)
		}
		if server.counted() != 2 {
			t.Errorf("%d attempts", server.counted())
		}
	})
}
