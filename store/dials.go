package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// maxDials is how many connections of one pool are made at a time, and how many are kept that nobody waited for. One
	// that takes longer than slowDial is not counted any more: the network may have lost it.
	maxDials = 2
	slowDial = time.Second
	// After a connection could not be made, the next attempt waits, and who asks meanwhile is told why.
	minDialPause = 50 * time.Millisecond
	maxDialPause = 100 * time.Millisecond
	// … unless there are many sidecars: each of them waits that long for each of them, up to a limit.
	dialShare        = 2 * time.Millisecond
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
	ready    []*connection
	failure  error // of the last attempt
	pause    time.Duration
	resume   time.Time // no attempt is made before
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
	if n := len(d.ready); n > 0 {
		c := d.ready[n-1]
		d.ready = d.ready[:n-1]
		d.mu.Unlock()
		return c, nil
	}
	if d.failure != nil && time.Now().Before(d.resume) {
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

// dial makes connections for so many. d is locked.
func (d *dials) dial(wanted int) {
	for d.underway < min(wanted, maxDials) && d.ctx.Err() == nil {
		d.underway++
		go d.attempt()
	}
}

func (d *dials) attempt() {
	ctx, cancel := context.WithTimeout(d.ctx, connectLimit)
	defer cancel()
	slow := time.AfterFunc(slowDial, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.underway--
		d.dial(len(d.waiting))
	})
	made, err := d.Connector.Connect(ctx)
	c, _ := made.(*connection)
	if err == nil {
		c.prepareAhead(ctx, d.queries)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if slow.Stop() {
		d.underway--
	}
	if err != nil {
		// A connection that is lost while it is made may be the last of those that were lost together.
		if d.failure == nil && connectionLost(err) {
			d.failure, d.resume = err, time.Now()
			d.fail(err)
			return
		}
		longest := min(max(maxDialPause, time.Duration(d.sidecars())*dialShare), longestDialPause)
		d.pause = min(max(2*d.pause, minDialPause), longest)
		d.failure, d.resume = err, time.Now().Add(d.pause/2+rand.N(d.pause/2))
		d.fail(err)
		return
	}
	d.failure, d.pause = nil, 0
	c.outworn = func() bool { return d.outworn(c) }
	d.hand(c)
	d.dial(len(d.waiting))
}

// fail tells all who wait. d is locked.
func (d *dials) fail(err error) {
	for _, w := range d.waiting {
		w <- dialed{err: err}
	}
	d.waiting = nil
}

// hand gives a connection to who has waited longest, or keeps it for the next one. d is locked.
func (d *dials) hand(c *connection) {
	switch {
	case len(d.waiting) > 0:
		d.waiting[0] <- dialed{conn: c}
		d.waiting = d.waiting[1:]
	case len(d.ready) < maxDials && d.ctx.Err() == nil:
		d.ready = append(d.ready, c)
	default:
		go func() { _ = c.Close() }() // may wait for the server
	}
}

// outworn reports whether the connection is to be closed, because it is old and there is a new one.
func (d *dials) outworn(c *connection) bool {
	if time.Since(c.made) < d.lifetime {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ready) == 0 && !time.Now().Before(d.resume) {
		d.dial(1)
	}
	return len(d.ready) > 0
}

// drop closes the connections that nobody has taken.
func (d *dials) drop() error {
	d.mu.Lock()
	dropped := d.ready
	d.ready = nil
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
