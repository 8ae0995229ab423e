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
	// MaxDials limits how many connections a pool opens at a time, and how many unused connections it keeps. If an attempt takes
	// longer than slowDial, a packet may be lost. In that case, the dialer starts up to MaxDials further attempts.
	MaxDials = 2
	slowDial = time.Second
	// After a failed attempt, the next attempt waits for a pause. The pause grows with the time since the last success and with
	// the number of sidecars that use the database. A look-up during the pause waits if at most lookupPause is left. Otherwise
	// the look-up fails immediately with the error of the last attempt.
	minDialPause = 50 * time.Millisecond
	lookupPause  = 100 * time.Millisecond
	dialShare    = 2 * time.Millisecond // for each sidecar
	maxDialPause = 2 * time.Second
)

// Dialer opens the connections for look-ups. Connecting may take longer than the time limit of a look-up, so the attempt
// continues after the look-up has given up. The next look-up then gets the connection.
type Dialer struct {
	driver.Connector

	queries  []string      // queries that each connection prepares
	lifetime time.Duration // maximum age of a connection; after this time, a new connection replaces it
	idle     time.Duration // maximum time for which a connection in ready stays open
	sidecars func() int64  // number of sidecars that use the database
	ctx      context.Context
	cancel   context.CancelFunc

	mu       sync.Mutex
	waiting  []chan dialed // look-ups that wait; each channel has a buffer of one
	underway int           // number of attempts in progress
	slow     int           // number of attempts that have taken longer than slowDial so far
	ready    []*pooled     // open connections that no look-up has used yet
	promised int           // number of connections in ready that replace closed old connections
	era      int           // increases when connections that are being opened may lead to the wrong server
	failure  error         // error of the last attempt
	failing  time.Time     // when the first failure after a success happened
	success  time.Time     // when the last successful attempt began
	pause    time.Duration
	resume   time.Time // no attempt starts before this time
	timed    bool      // a timer will start an attempt at resume
}

// pooled is a connection for look-ups.
type pooled struct {
	database.Connection
	made     time.Time   // time at which the connection was opened
	era      int         // value of Dialer.era when the attempt began
	replaced func() bool // reports whether to close the connection because it is old and a new one is ready
}

// ResetSession implements [driver.SessionResetter]. database/sql calls it before each use of the connection.
func (c *pooled) ResetSession(ctx context.Context) error {
	if c.replaced() {
		return driver.ErrBadConn
	}
	return c.Connection.ResetSession(ctx)
}

type dialed struct {
	conn *pooled
	err  error
}

// NewDialer returns a dialer of the connector's connections, which must be of the type [database.Connection]. Each connection
// prepares the queries, and is replaced after its lifetime. A connection that no look-up takes is closed after the duration idle.
// sidecars returns the number of sidecars that use the database. The caller must close the dialer. If a pool of database/sql uses
// the dialer, closing the pool also closes the dialer.
func NewDialer(c driver.Connector, queries []string, lifetime, idle time.Duration, sidecars func() int64) *Dialer {
	d := &Dialer{Connector: c, queries: queries, lifetime: lifetime, idle: idle, sidecars: sidecars}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Connect implements [driver.Connector].
func (d *Dialer) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	if len(d.ready) > 0 {
		c := d.ready[0]
		d.ready = d.ready[1:]
		d.promised = max(0, d.promised-1)
		d.mu.Unlock()
		return c, nil
	}
	if d.failure != nil && time.Until(d.resume) > lookupPause {
		defer d.mu.Unlock()
		return nil, d.failure
	}
	wait := make(chan dialed, 1)
	d.waiting = append(d.waiting, wait)
	d.dial(len(d.waiting))
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
	d.waiting = slices.DeleteFunc(d.waiting, func(w chan dialed) bool { return w == wait })
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
	if pause := time.Until(d.resume); pause > 0 {
		if !d.timed {
			d.timed = true
			time.AfterFunc(pause, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.timed = false
				d.dial(len(d.waiting))
			})
		}
		return
	}
	for d.underway-d.slow < min(wanted, MaxDials) && d.slow <= MaxDials && d.ctx.Err() == nil {
		d.underway++
		go d.attempt(d.era)
	}
}

func (d *Dialer) attempt(era int) {
	ctx, cancel := context.WithTimeout(d.ctx, database.ConnectLimit)
	defer cancel()
	began := time.Now()
	slow := time.AfterFunc(slowDial, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.slow++
		d.dial(len(d.waiting))
	})
	c, err := d.connect(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.underway--
	if !slow.Stop() {
		d.slow--
	}
	switch {
	case err == nil:
		d.failure, d.pause, d.resume, d.success = nil, 0, time.Time{}, began
		c.era = era
		c.replaced = func() bool { return d.replace(c) }
		d.deliver(c)
		d.dial(len(d.waiting))
	case began.Before(d.success): // an attempt that began later has succeeded
		d.dial(len(d.waiting))
	default:
		d.failed(err)
	}
}

// connect opens a connection and prepares the queries on it.
func (d *Dialer) connect(ctx context.Context) (_ *pooled, err error) {
	defer func() {
		if p := recover(); p != nil { // a recover in a caller does not catch a panic in this goroutine
			err = fmt.Errorf("connect to the database: panic: %v", p)
		}
	}()
	made, err := d.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &pooled{Connection: made.(database.Connection), made: time.Now()}
	if c.PrepareAhead(ctx, d.queries); !c.IsValid() {
		return nil, errors.Join(errors.New("connect to the database: no answer while queries were prepared"), c.Close())
	}
	return c, nil
}

// failed sets the pause before the next attempt, and fails all waiting look-ups. The caller holds d.mu.
func (d *Dialer) failed(err error) {
	if d.failure == nil {
		d.failing = time.Now()
	}
	// If the first failure is a lost connection, try again immediately: the server may have just closed all its connections.
	again := d.failure == nil && database.ConnectionLost(err)
	if d.failure, d.resume = err, time.Now(); !again {
		longest := min(max(lookupPause, time.Since(d.failing)/10, time.Duration(d.sidecars())*dialShare), maxDialPause)
		d.pause = min(max(2*d.pause, minDialPause), longest)
		d.resume = d.resume.Add(d.pause/2 + rand.N(d.pause/2))
	}
	for _, w := range d.waiting {
		w <- dialed{err: err}
	}
	d.waiting = nil
}

// deliver passes a connection to the look-up that has waited longest. If no look-up waits, deliver keeps the connection for the
// next look-up, or closes it. The caller holds d.mu.
func (d *Dialer) deliver(c *pooled) {
	switch {
	case c.era != d.era:
		go func() { _ = c.Close() }() // Close may wait for the server
	case len(d.waiting) > 0:
		d.waiting[0] <- dialed{conn: c}
		d.waiting = d.waiting[1:]
	case len(d.ready) < MaxDials && d.ctx.Err() == nil:
		d.ready = append(d.ready, c)
		time.AfterFunc(d.idle, func() { d.discard(c) })
	default:
		go func() { _ = c.Close() }()
	}
}

// discard closes the connection if no look-up has taken it. Otherwise a slow network would leave surplus connections open.
func (d *Dialer) discard(c *pooled) {
	d.mu.Lock()
	before := len(d.ready)
	d.ready = slices.DeleteFunc(d.ready, func(r *pooled) bool { return r == c })
	isUnused := len(d.ready) < before
	d.promised = min(d.promised, len(d.ready))
	d.mu.Unlock()
	if isUnused {
		_ = c.Close()
	}
}

// replace reports whether to close the connection because it is old and a new one is ready. If no new connection is ready,
// replace starts an attempt.
func (d *Dialer) replace(c *pooled) bool {
	if time.Since(c.made) < d.lifetime {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ready) > d.promised {
		d.promised++
		return true
	}
	d.dial(1)
	return false
}

// Drop closes the connections that no look-up uses yet. Connections that are still being opened are closed as soon as they are
// open.
func (d *Dialer) Drop() error {
	d.mu.Lock()
	dropped := d.ready
	d.ready, d.promised = nil, 0
	d.era++
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
