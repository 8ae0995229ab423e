package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// maxDials is how many connections of one pool are made at a time, and how many are kept that nobody waited for. Beside
	// those that take longer than slowDial, which the network may have lost, as many again are made.
	maxDials = 2
	slowDial = time.Second
	// After a connection could not be made, the next attempt has to wait. The pause grows with the time since the last success,
	// and with the number of sidecars that use the database. A look-up that comes meanwhile waits too, but no longer than
	// maxDialPause: otherwise it is told at once why there is no connection.
	minDialPause     = 50 * time.Millisecond
	maxDialPause     = 100 * time.Millisecond
	dialShare        = 2 * time.Millisecond // of each sidecar
	longestDialPause = 2 * time.Second
)

// dials makes the connections of look-ups. To make one may take longer than a look-up may, so it goes on when the look-up
// that needed it has given up; another one takes it.
type dials struct {
	driver.Connector

	queries  []string      // that each connection is made to answer
	lifetime time.Duration // of a connection. Then another one takes its place, as soon as that is made
	sidecars func() int64  // that use the database
	ctx      context.Context
	cancel   context.CancelFunc

	mu       sync.Mutex
	waiting  []chan dialed // each has room for one
	underway int
	slow     int // that are under way and take long
	ready    []*connection
	promised int       // of those that are ready, to take the place of old ones
	era      int       // is raised when the connections that are made lead to the wrong server
	failure  error     // of the last attempt
	failing  time.Time // since the first failure after a success
	success  time.Time // when the last attempt that succeeded began
	pause    time.Duration
	resume   time.Time // no attempt is made before
	timed    bool      // a timer will make it then
}

type dialed struct {
	conn *connection
	err  error
}

func newDials(c driver.Connector, queries []string, lifetime time.Duration, sidecars func() int64) *dials {
	d := &dials{Connector: c, queries: queries, lifetime: lifetime, sidecars: sidecars}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Connect implements [driver.Connector].
func (d *dials) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	if len(d.ready) > 0 {
		c := d.ready[0]
		d.ready = d.ready[1:]
		d.promised = max(0, d.promised-1)
		d.mu.Unlock()
		return c, nil
	}
	if d.failure != nil && time.Until(d.resume) > maxDialPause {
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
	case r := <-wait: // at the same moment
		if r.conn != nil {
			d.hand(r.conn)
		}
	default:
	}
	return nil, ctx.Err()
}

// dial makes connections for so many, or sees to it when the pause is over. d is locked.
func (d *dials) dial(wanted int) {
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
	for d.underway-d.slow < min(wanted, maxDials) && d.slow <= maxDials && d.ctx.Err() == nil {
		d.underway++
		go d.attempt(d.era)
	}
}

func (d *dials) attempt(era int) {
	ctx, cancel := context.WithTimeout(d.ctx, connectLimit)
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
		d.hand(c)
		d.dial(len(d.waiting))
	case began.Before(d.success): // it says nothing of now
		d.dial(len(d.waiting))
	default:
		d.failed(err)
	}
}

// connect makes a connection that is able to answer the queries.
func (d *dials) connect(ctx context.Context) (_ *connection, err error) {
	defer func() {
		if p := recover(); p != nil { // no caller's recover covers this goroutine
			err = fmt.Errorf("connect to the database: panic: %v", p)
		}
	}()
	made, err := d.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := made.(*connection)
	if c.prepareAhead(ctx, d.queries); !c.IsValid() {
		return nil, errors.Join(errors.New("connect to the database: no answer while queries were prepared"), c.Close())
	}
	return c, nil
}

// failed has the next attempt wait, and tells all who wait now. d is locked.
func (d *dials) failed(err error) {
	if d.failure == nil {
		d.failing = time.Now()
	}
	// A connection that is lost while it is made may be the last of those that were lost together.
	again := d.failure == nil && connectionLost(err)
	if d.failure, d.resume = err, time.Now(); !again {
		longest := min(max(maxDialPause, time.Since(d.failing)/10, time.Duration(d.sidecars())*dialShare), longestDialPause)
		d.pause = min(max(2*d.pause, minDialPause), longest)
		d.resume = d.resume.Add(d.pause/2 + rand.N(d.pause/2))
	}
	for _, w := range d.waiting {
		w <- dialed{err: err}
	}
	d.waiting = nil
}

// hand gives a connection to the look-up that has waited longest, or keeps it for the next one. d is locked.
func (d *dials) hand(c *connection) {
	switch {
	case c.era != d.era:
		go func() { _ = c.Close() }() // may wait for the server
	case len(d.waiting) > 0:
		d.waiting[0] <- dialed{conn: c}
		d.waiting = d.waiting[1:]
	case len(d.ready) < maxDials && d.ctx.Err() == nil:
		d.ready = append(d.ready, c)
	default:
		go func() { _ = c.Close() }()
	}
}

// replace reports whether the connection is to be closed, because it is old and a new one is ready. It has one made, if there is
// none.
func (d *dials) replace(c *connection) bool {
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

// drop closes the connections that nobody has taken, and those that are being made.
func (d *dials) drop() error {
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
func (d *dials) Close() error {
	d.cancel()
	return d.drop()
}
