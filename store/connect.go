package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Open makes a pool of connections for [Migrate] and [MigrationStatus], and connects when it is first used. The URL is
// postgres://user:password@host:port/database?sslmode=…, or a libpq string of key=value pairs; its service and
// the PG* environment variables stand behind it.
func Open(databaseURL string) (*sqlx.DB, error) {
	// It prepares nothing that a pooler could mix up, whether or not there is one.
	c, err := newConnector(databaseURL, PoolerTransaction, 0)
	if err != nil {
		return nil, err
	}
	return open(c), nil
}

func open(c driver.Connector) *sqlx.DB { return sqlx.NewDb(sql.OpenDB(c), "postgres") }

// dialer makes one connection to the server, and others to send it requests to cancel. They give up on a server that stopped
// answering: otherwise a connection whose peer vanished holds its place in the pool until TCP gives up, a quarter of an hour
// later.
type dialer struct {
	connecting time.Duration // until the connection is made, with all that is said first
	limit      time.Duration // of each read and each write from then on; 0: none
	keepAlive  net.KeepAliveConfig

	last atomic.Pointer[limitedConn]
}

// Dial implements [pq.Dialer].
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements [pq.Dialer].
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements [pq.DialerContext].
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	deadline := time.Now().Add(d.connecting)
	c, err := (&net.Dialer{Deadline: deadline, KeepAlive: -1, KeepAliveConfig: d.keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	limited := &limitedConn{Conn: c, until: deadline, limit: d.limit}
	d.last.Store(limited)
	return limited, nil
}

// connected ends the limit on connecting.
func (d *dialer) connected() error {
	c := d.last.Load()
	if c == nil {
		return nil
	}
	c.until = time.Time{}
	return c.SetDeadline(time.Time{})
}

// limitedConn relies on lib/pq reading only while it waits for an answer.
type limitedConn struct {
	net.Conn
	until time.Time // the limit of all reads and writes; zero: each has its own one
	limit time.Duration
}

func (c *limitedConn) deadline() time.Time {
	if c.until.IsZero() && c.limit > 0 {
		return time.Now().Add(c.limit)
	}
	return c.until
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *limitedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(c.deadline()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// readCommitted runs f in a transaction. At another isolation level, sidecars would fail each other's writes, or the product's. A
// pooler's connection may also have been left read-only by another client.
func readCommitted(ctx context.Context, db beginner, f func(*sqlx.Tx) error) error {
	tx, err := db.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// beginner is a pool or one connection.
type beginner interface {
	BeginTxx(context.Context, *sql.TxOptions) (*sqlx.Tx, error)
}

// retryLost runs f again, up to so many times in all, as long as it fails for a lost connection. database/sql does so
// only for some of the ways in which lib/pq reports one: not for a reset, nor for one lost while the answer is read. f
// must do no harm when it runs twice.
func retryLost(ctx context.Context, attempts int, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || attempt >= attempts || ctx.Err() != nil || !connectionLost(err) {
			return err
		}
	}
}

// connectionLost reports whether err says that a connection which once worked does no more. A server that cannot be
// reached at all is not meant: trying at once again would not help.
func connectionLost(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op != "dial" && !op.Timeout()
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		pq.As(err, pqerror.AdminShutdown, pqerror.CrashShutdown) != nil
}

// doWithin is within for what returns nothing but an error.
func doWithin(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	_, err := within(ctx, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// within runs f and waits for it no longer than limit, whatever f waits for: lib/pq sends a cancel request when a
// context ends and then waits for the server, which may be what hangs. f ends by itself, later, by its connection's
// limit.
func within[T any](ctx context.Context, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if p := recover(); p != nil { // here no interceptor of the caller's would see it
				o.err = fmt.Errorf("panic: %v", p)
			}
			done <- o
		}()
		o.value, o.err = f(bounded)
	}()
	var o outcome
	select {
	case o = <-done:
	case <-bounded.Done():
		o.err = bounded.Err()
	}
	switch {
	case o.err == nil:
		return o.value, nil
	case ctx.Err() != nil:
		o.err = ctx.Err()
	case bounded.Err() != nil:
		// A query that was cancelled comes back as Postgres's 57014, which errors.Is does not take for a deadline.
		o.err = fmt.Errorf("no answer within %v: %w", limit, bounded.Err())
	}
	var zero T
	return zero, o.err
}
