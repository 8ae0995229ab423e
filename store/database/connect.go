package database

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

const (
	// DefaultMaxOpenConnections is the default maximum number of connections in a pool that serves requests.
	DefaultMaxOpenConnections = 8
	// ConnectionLifetime is the maximum age of a connection. After a failover, or after a change of the server's address,
	// connections to the old server may stay open. Because of this limit, the process still reaches the new server.
	ConnectionLifetime = 5 * time.Minute
)

// Open returns a connection pool for one command, such as a migration. The pool connects when it is first used. The URL is
// postgres://user:password@host:port/database?sslmode=…, or a libpq string of key=value pairs. [Parse] describes where the other
// options come from.
func Open(databaseURL string) (*sqlx.DB, error) {
	// With PoolerTransaction, the pool prepares no statements, so it works with any pooler.
	c, err := NewConnector(databaseURL, PoolerTransaction, 0)
	if err != nil {
		return nil, err
	}
	return OpenDB(c), nil
}

// OpenDB returns a connection pool whose connections the connector opens. The pool connects when it is first used.
func OpenDB(c driver.Connector) *sqlx.DB { return sqlx.NewDb(sql.OpenDB(c), "postgres") }

// dialer opens one connection to the server. It also opens the connections on which lib/pq sends cancel requests. All reads and
// writes have deadlines. Without deadlines, a connection to an unreachable server would stay in the pool until the TCP timeout,
// about 15 minutes.
type dialer struct {
	connectLimit time.Duration // time limit for connecting, which includes TLS, login and the first query
	limit        time.Duration // time limit for each read and each write after connecting; 0: no limit
	keepAlive    net.KeepAliveConfig

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
	deadline := time.Now().Add(d.connectLimit)
	c, err := (&net.Dialer{Deadline: deadline, KeepAlive: -1, KeepAliveConfig: d.keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	limited := &limitedConn{Conn: c, until: deadline, limit: d.limit}
	d.last.Store(limited)
	return limited, nil
}

// endConnectLimit removes the time limit for connecting. Call it when the first query has succeeded.
func (d *dialer) endConnectLimit() error {
	c := d.last.Load()
	if c == nil {
		return nil
	}
	c.until = time.Time{}
	return c.SetDeadline(time.Time{})
}

// limitedConn sets a deadline for each read and each write. lib/pq reads from a connection only while it waits for a reply, so an
// idle connection has no deadline that it could reach.
type limitedConn struct {
	net.Conn
	until time.Time // deadline for all reads and writes; if it is zero, each read and each write has the time limit in the field limit
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

// ReadCommitted runs f in a transaction with the isolation level read committed. At a higher level, writes by sidecars and by the
// product would fail with serialization errors. ReadCommitted also makes the transaction read-write, because another client of a
// pooler may have made the connection read-only.
func ReadCommitted(ctx context.Context, db Beginner, f func(*sqlx.Tx) error) error {
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

// Beginner starts transactions: a pool or one connection.
type Beginner interface {
	BeginTxx(context.Context, *sql.TxOptions) (*sqlx.Tx, error)
}

// RetryLost runs f. If f fails because of a lost connection, RetryLost runs f again. The parameter `attempts` is the maximum
// number of runs, including the first run. f must be idempotent. The package database/sql does not retry if a TCP reset occurs, or
// if the connection is lost while it reads the reply.
func RetryLost(ctx context.Context, attempts int, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || attempt >= attempts || ctx.Err() != nil || !ConnectionLost(err) {
			return err
		}
	}
}

// ConnectionLost reports whether err means that an open connection was lost. If connecting failed, it returns false, because an
// immediate retry would not help.
func ConnectionLost(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op != "dial" && !op.Timeout()
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		pq.As(err, pqerror.AdminShutdown, pqerror.CrashShutdown) != nil
}

// DoWithTimeout is [WithTimeout] for a function whose only result is an error.
func DoWithTimeout(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	_, err := WithTimeout(ctx, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// WithTimeout runs f, and returns after at most the duration limit, even if f ignores its context. When a context ends, lib/pq
// sends a cancel request and then waits for the server. If the server hangs, f ends later, when a read or a write on its
// connection reaches its deadline.
func WithTimeout[T any](ctx context.Context, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
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
			if p := recover(); p != nil { // a recover in the caller would not catch a panic in this goroutine
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
		// For a cancelled query, Postgres returns the error code 57014, which errors.Is does not recognize as a deadline.
		o.err = fmt.Errorf("no answer within %v: %w", limit, bounded.Err())
	}
	var zero T
	return zero, o.err
}
