package pool

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/keywicket/keywicket/store/database"
)

const (
	// MaxDials is the maximum number of attempts to connect at the same time. It is also the maximum number of unused connections
	// that a dialer keeps. An attempt that takes longer than slowDial no longer counts, because a packet may be lost. So the dialer
	// then starts further attempts, up to MaxDials at the same time.
	MaxDials = 2
	slowDial = time.Second
	// After a failed attempt, there is a pause before the next attempt. The pause is longer if the failures have lasted longer, and
	// if more sidecars use the database. A look-up during the pause waits for the next attempt if the rest of the pause is at most
	// lookupPause. Otherwise, the look-up fails immediately with the error of the last attempt.
	minDialPause = 50 * time.Millisecond
	lookupPause  = 100 * time.Millisecond
	dialShare    = 2 * time.Millisecond // the longest pause is at least dialShare for each sidecar, up to maxDialPause
	maxDialPause = 2 * time.Second
)

// Dialer opens the connections for look-ups. Connecting may take longer than the time limit of a look-up, so the attempt
// continues after the look-up has given up. The next look-up then gets the connection.
type Dialer struct {
	driver.Connector

	queries  []string      // queries that each connection prepares
	lifetime time.Duration // maximum age of a connection; after this time, a new connection replaces it
	idle     time.Duration // maximum time for which the dialer keeps an unused connection open
	sidecars func() int64  // number of sidecars that use the database
	ctx      context.Context
	cancel   context.CancelFunc

	mu           sync.Mutex
	waiters      []chan dialResult // look-ups that wait; each channel has a buffer of one
	attempts     int               // number of attempts in progress
	slow         int               // number of attempts that have taken longer than slowDial so far
	unused       []*lookupConn     // open connections that no look-up has used yet
	reserved     int               // number of unused connections that will replace old connections, which are already closed
	generation   int               // Drop increases it, because connections that are being opened may lead to the wrong server
	failure      error             // error of the last attempt
	failingSince time.Time         // when the first failure after a success happened
	lastSuccess  time.Time         // when the last successful attempt began
	pause        time.Duration
	resumeAt     time.Time // no attempt starts before this time
	timerSet     bool      // a timer will start an attempt at resumeAt
}

// lookupConn is a connection for look-ups.
type lookupConn struct {
	database.Connection
	opened     time.Time   // time at which the connection was opened
	generation int         // value of Dialer.generation when the attempt began
	isReplaced func() bool // reports whether to close the connection, because it is old and a new one is open
}

// ResetSession implements [driver.SessionResetter]. database/sql calls it before each use of the connection.
func (c *lookupConn) ResetSession(ctx context.Context) error {
	if c.isReplaced() {
		return driver.ErrBadConn
	}
	return c.Connection.ResetSession(ctx)
}

type dialResult struct {
	conn *lookupConn
	err  error
}

// NewDialer returns a dialer that opens the connector's connections, which must be of the type [database.Connection]. Each
// connection prepares the queries, and is replaced after its lifetime. A connection that no look-up takes is closed after the
// duration `idle`. The parameter `sidecars` is a function that returns the number of sidecars that use the database. The caller
// must close the dialer. If a pool of database/sql uses the dialer, closing the pool also closes the dialer.
func NewDialer(c driver.Connector, queries []string, lifetime, idle time.Duration, sidecars func() int64) *Dialer {
	d := &Dialer{Connector: c, queries: queries, lifetime: lifetime, idle: idle, sidecars: sidecars}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Connect implements [driver.Connector].
func (d *Dialer) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	if len(d.unused) > 0 {
		c := d.unused[0]
		d.unused = d.unused[1:]
		d.reserved = max(0, d.reserved-1)
		d.mu.Unlock()
		return c, nil
	}
	if d.failure != nil && time.Until(d.resumeAt) > lookupPause {
		defer d.mu.Unlock()
		return nil, d.failure
	}
	wait := make(chan dialResult, 1)
	d.waiters = append(d.waiters, wait)
	d.dial(len(d.waiters))
	d.mu.Unlock()

	select {
	case r := <-wait:
		if r.err != nil {
			return nil, r.err
		}
		return r.conn, nil
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiters = slices.DeleteFunc(d.waiters, func(w chan dialResult) bool { return w == wait })
	select {
	case r := <-wait: // the result arrived just when the context ended
		if r.conn != nil {
			d.deliver(r.conn)
		}
	default:
	}
	return nil, ctx.Err()
}

// dial starts attempts for the wanted number of connections. During a pause, it starts a timer that starts these attempts later.
// The caller holds d.mu.
func (d *Dialer) dial(wanted int) {
	if pause := time.Until(d.resumeAt); pause > 0 {
		if !d.timerSet {
			d.timerSet = true
			time.AfterFunc(pause, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.timerSet = false
				d.dial(len(d.waiters))
			})
		}
		return
	}
	for d.attempts-d.slow < min(wanted, MaxDials) && d.slow <= MaxDials && d.ctx.Err() == nil {
		d.attempts++
		go d.attempt(d.generation)
	}
}

func (d *Dialer) attempt(generation int) {
	ctx, cancel := context.WithTimeout(d.ctx, database.ConnectLimit)
	defer cancel()
	began := time.Now()
	slow := time.AfterFunc(slowDial, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.slow++
		d.dial(len(d.waiters))
	})
	c, err := d.connect(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attempts--
	if !slow.Stop() {
		d.slow--
	}
	switch {
	case err == nil:
		d.failure, d.pause, d.resumeAt, d.lastSuccess = nil, 0, time.Time{}, began
		c.generation = generation
		c.isReplaced = func() bool { return d.replacementReady(c) }
		d.deliver(c)
		d.dial(len(d.waiters))
	case began.Before(d.lastSuccess): // an attempt that began later has succeeded, so this failure does not count
		d.dial(len(d.waiters))
	default:
		d.recordFailure(err)
	}
}

// connect opens a connection and prepares the queries on it.
func (d *Dialer) connect(ctx context.Context) (_ *lookupConn, err error) {
	defer func() {
		if p := recover(); p != nil { // a recover in a caller does not catch a panic in this goroutine
			err = fmt.Errorf("connect to the database: panic: %v", p)
		}
	}()
	raw, err := d.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &lookupConn{Connection: raw.(database.Connection), opened: time.Now()}
	if c.PrepareAhead(ctx, d.queries); !c.IsValid() {
		return nil, errors.Join(errors.New("connect to the database: no answer while queries were prepared"), c.Close())
	}
	return c, nil
}

// recordFailure sets the pause before the next attempt, and returns the error to all waiting look-ups. The caller holds d.mu.
func (d *Dialer) recordFailure(err error) {
	if d.failure == nil {
		d.failingSince = time.Now()
	}
	// If the first failure is a lost connection, try again immediately: the server may have just closed all its connections.
	retryNow := d.failure == nil && database.ConnectionLost(err)
	if d.failure, d.resumeAt = err, time.Now(); !retryNow {
		longest := min(max(lookupPause, time.Since(d.failingSince)/10, time.Duration(d.sidecars())*dialShare), maxDialPause)
		d.pause = min(max(2*d.pause, minDialPause), longest)
		d.resumeAt = d.resumeAt.Add(d.pause/2 + rand.N(d.pause/2))
	}
	for _, w := range d.waiters {
		w <- dialResult{err: err}
	}
	d.waiters = nil
}

// deliver passes a connection to the look-up that has waited longest. If no look-up waits, deliver keeps the connection for the
// next look-up, or closes it. The caller holds d.mu.
func (d *Dialer) deliver(c *lookupConn) {
	switch {
	case c.generation != d.generation:
		go func() { _ = c.Close() }() // Close may wait for the server
	case len(d.waiters) > 0:
		d.waiters[0] <- dialResult{conn: c}
		d.waiters = d.waiters[1:]
	case len(d.unused) < MaxDials && d.ctx.Err() == nil:
		d.unused = append(d.unused, c)
		time.AfterFunc(d.idle, func() { d.closeIfUnused(c) })
	default:
		go func() { _ = c.Close() }()
	}
}

// closeIfUnused closes the connection if no look-up has taken it. Without closeIfUnused, a connection would stay open if its
// look-up gave up before the connection was open.
func (d *Dialer) closeIfUnused(c *lookupConn) {
	d.mu.Lock()
	before := len(d.unused)
	d.unused = slices.DeleteFunc(d.unused, func(r *lookupConn) bool { return r == c })
	isUnused := len(d.unused) < before
	d.reserved = min(d.reserved, len(d.unused))
	d.mu.Unlock()
	if isUnused {
		_ = c.Close()
	}
}

// replacementReady reports whether to close the connection, because it is old and a new one is open. If the connection is old and
// no new one is open, replacementReady starts an attempt to open one.
func (d *Dialer) replacementReady(c *lookupConn) bool {
	if time.Since(c.opened) < d.lifetime {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.unused) > d.reserved {
		d.reserved++
		return true
	}
	d.dial(1)
	return false
}

// Drop closes the connections that no look-up has used yet. Connections that are still being opened are closed as soon as they are
// open.
func (d *Dialer) Drop() error {
	d.mu.Lock()
	dropped := d.unused
	d.unused, d.reserved = nil, 0
	d.generation++
	d.mu.Unlock()
	var errs []error
	for _, c := range dropped {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Close implements [io.Closer]: database/sql calls it when the pool is closed.
func (d *Dialer) Close() error {
	d.cancel()
	return d.Drop()
}
