package database

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Pooler is the kind of connection pooler, such as PgBouncer, between keywicket and the database. A transaction pooler may run
// each transaction on another server connection. So prepared statements do not work with a transaction pooler. lib/pq uses the
// same statement names on every connection, and a query could get the reply to another query.
type Pooler string

// The kinds of poolers.
const (
	// PoolerAuto detects a pooler on each connection. It compares the process id that the server sent at login with the process
	// id of the server that answers the first query.
	PoolerAuto Pooler = "auto"
	// PoolerNone is for direct connections, and for connections through a session pooler.
	PoolerNone Pooler = "none"
	// PoolerTransaction is for connections through a transaction pooler.
	PoolerTransaction Pooler = "transaction"
)

// Poolers returns all values of Pooler.
func Poolers() []Pooler { return []Pooler{PoolerAuto, PoolerNone, PoolerTransaction} }

// ConnectLimit is the time limit for connecting. With TLS and a password, connecting takes six to ten round trips.
const ConnectLimit = 5 * time.Second

// Connector opens connections. Each call of Connect opens one connection.
type Connector struct {
	settings Settings
	pooler   Pooler
	limit    time.Duration // time limit for each read and each write on an open connection; 0: no limit
}

// NewConnector returns a connector for the database at the URL. The parameter `limit` is the time limit for each read and each
// write on an open connection; 0 means no limit. NewConnector reads the URL, but does not connect.
func NewConnector(databaseURL string, pooler Pooler, limit time.Duration) (Connector, error) {
	s, err := Parse(databaseURL)
	if err != nil {
		return Connector{}, err
	}
	if s.pooled && pooler == PoolerAuto {
		pooler = PoolerTransaction
	}
	// With this setting, lib/pq sends a query and its arguments in one round trip. With two round trips, a transaction pooler
	// could use another server process for the second round trip.
	s.BinaryParameters = true
	return Connector{settings: s, pooler: pooler, limit: limit}, nil
}

// WithLimit returns a copy of the connector with another time limit for each read and each write.
func (c Connector) WithLimit(limit time.Duration) Connector {
	c.limit = limit
	return c
}

// Connect implements [driver.Connector].
func (c Connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, connectError(err)
	}
	return conn, nil
}

// connect tries the hosts in order, each for an equal share of ConnectLimit. lib/pq could also try the hosts, but then one host
// that does not answer could use up the whole ConnectLimit.
func (c Connector) connect(ctx context.Context) (driver.Conn, error) {
	all := hosts(c.settings.Config)
	var errs []error
	for _, host := range all {
		conn, err := c.connectTo(ctx, host, ConnectLimit/time.Duration(len(all)))
		if err == nil {
			return conn, nil
		}
		if len(all) > 1 {
			err = fmt.Errorf("%s:%d: %w", host.Host, host.Port, err)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// hosts returns a configuration for each host, in the order in which connect tries the hosts.
func hosts(c pq.Config) []pq.Config {
	all := make([]pq.Config, 1, 1+len(c.Multi))
	all[0] = c.Clone()
	for _, other := range c.Multi {
		one := c.Clone()
		one.Host, one.Hostaddr, one.Port = other.Host, other.Hostaddr, other.Port
		all = append(all, one)
	}
	for i := range all {
		all[i].Multi = nil
		// For this option, lib/pq would check parameters that it received at login. A pooler may have cached these parameters
		// from another server, so the function checkServer checks the server instead.
		all[i].TargetSessionAttrs = pq.TargetSessionAttrsAny
	}
	if c.LoadBalanceHosts == pq.LoadBalanceHostsRandom {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

func (c Connector) connectTo(ctx context.Context, host pq.Config, limit time.Duration) (driver.Conn, error) {
	plain, err := pq.NewConnectorConfig(host)
	if err != nil {
		return nil, fmt.Errorf("prepare the database connection: %w", err)
	}
	d := &dialer{connectLimit: limit, limit: c.limit, keepAlive: c.settings.KeepAlive}
	if timeout := host.ConnectTimeout; timeout > 0 {
		d.connectLimit = min(d.connectLimit, timeout)
	}
	plain.Dialer(d)
	raw, err := plain.Connect(ctx)
	if err != nil {
		return nil, err
	}
	full, ok := raw.(fullConn)
	if !ok { // possible only with another version of lib/pq
		return nil, errors.Join(fmt.Errorf("the driver's connection %T lacks a method", raw), raw.Close())
	}
	needsWrites := c.settings.TargetSessionAttrs == pq.TargetSessionAttrsReadWrite
	direct, err := checkServer(ctx, full, needsWrites)
	if err == nil && !full.IsValid() {
		err = cmp.Or(ctx.Err(), driver.ErrBadConn)
	}
	if err == nil {
		err = d.endConnectLimit()
	}
	if errors.Is(err, driver.ErrBadConn) { // replace ErrBadConn, because with ErrBadConn, the caller would retry immediately
		err = errors.New("the server has closed the connection at the first query: if the server is a pooler, see the log of the pooler")
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return &connection{fullConn: full, canPrepare: c.pooler == PoolerNone || c.pooler == PoolerAuto && direct}, nil
}

// Driver implements [driver.Connector].
func (c Connector) Driver() driver.Driver { return &pq.Driver{} }

// checkServer rejects a standby and a server that is too old. If needsWrites is true, it also rejects a read-only session. The
// result `direct` reports whether there is no pooler. Without a pooler, the process that answers the first query has the process
// id that the server sent at login. A pooler sends invented process ids, because its clients share its connections to Postgres.
func checkServer(ctx context.Context, c fullConn, needsWrites bool) (direct bool, err error) {
	const query = `SELECT current_setting('server_version_num')::int, pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'`
	rows, err := c.QueryContext(ctx, query, nil)
	if err != nil {
		return false, err
	}
	var row [4]driver.Value
	if err := errors.Join(rows.Next(row[:]), rows.Close()); err != nil {
		return false, err
	}
	version, isVersion := row[0].(int64)
	pid, _ := row[1].(int64)
	standby, isStandby := row[2].(bool)
	readOnly, _ := row[3].(bool)
	switch {
	case !isVersion || !isStandby:
		return false, errors.New("the server's answer is not from Postgres")
	case standby:
		return false, errors.New("the server is a standby (in hot standby mode): keywicket needs the primary")
	case needsWrites && readOnly:
		return false, errors.New("the server accepts no writes (the session is read-only), but the database URL has target_session_attrs=read-write")
	}
	return pid != 0 && pid == loginPID(c), checkVersion(int(version))
}

// loginPID returns the process id that the server sent at login, or 0 if it is unknown. lib/pq stores this id for cancel
// requests. loginPID reads it from an unexported field of lib/pq's connection.
func loginPID(c driver.Conn) int64 {
	v := reflect.Indirect(reflect.ValueOf(c))
	if v.Kind() != reflect.Struct {
		return 0
	}
	if pid := v.FieldByName("pid"); pid.IsValid() && pid.CanInt() {
		return pid.Int()
	}
	return 0
}

// fullConn has all methods of lib/pq's connection that the package database/sql uses.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// Connection is a connection of a [Connector]. It has all methods that database/sql uses, and two methods for prepared
// statements.
type Connection interface {
	fullConn

	// PrepareAhead prepares queries before look-ups need them. If the context of a look-up ended while lib/pq prepares its query,
	// lib/pq would close the connection. If PrepareAhead cannot prepare a query, the first look-up that needs the query prepares
	// it.
	PrepareAhead(ctx context.Context, queries []string)

	// QueryPrepared runs a query as a prepared statement, and keeps the statement on the connection. If a column's type has
	// changed, or if the statement was dropped, QueryPrepared prepares the query again. The caller must close the rows.
	QueryPrepared(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
}

// connection is a connection that prepares statements only if canPrepare is true. If canPrepare is false, each query takes one
// round trip, so a pooler sends the whole query to one server process (see NewConnector).
type connection struct {
	fullConn
	canPrepare bool
	prepared   map[string]driver.Stmt // the prepared statements of QueryPrepared, by the text of the query
}

var _ Connection = (*connection)(nil)

// PrepareContext implements [driver.ConnPrepareContext].
func (c *connection) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.canPrepare || strings.HasPrefix(strings.TrimSpace(query), "COPY ") { // for COPY, lib/pq requires a call of Prepare, but prepares no statement on the server
		return c.fullConn.PrepareContext(ctx, query)
	}
	return unprepared{c.fullConn, query}, nil
}

// PrepareAhead implements [Connection].
func (c *connection) PrepareAhead(ctx context.Context, queries []string) {
	if !c.canPrepare {
		return
	}
	// While a table is locked, Postgres cannot prepare queries that read the table. The lock timeout is short, so that the
	// connection is soon available for look-ups that do not need the table.
	if _, err := c.ExecContext(ctx, `SET lock_timeout = 50`, nil); err != nil {
		return
	}
	for _, query := range queries {
		if _, err := c.statement(ctx, query); err != nil {
			break
		}
	}
	_, _ = c.ExecContext(ctx, `RESET lock_timeout`, nil) // no error handling: an error means that the connection is lost
}

// statement returns the prepared statement of the query. If the query is not prepared yet, statement prepares it.
func (c *connection) statement(ctx context.Context, query string) (driver.StmtQueryContext, error) {
	s := c.prepared[query]
	if s == nil {
		var err error
		if s, err = c.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
		if c.prepared == nil {
			c.prepared = make(map[string]driver.Stmt)
		}
		c.prepared[query] = s
	}
	return s.(driver.StmtQueryContext), nil
}

// QueryPrepared implements [Connection].
func (c *connection) QueryPrepared(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	for again := false; ; again = true {
		s, err := c.statement(ctx, query)
		if err != nil {
			return nil, err
		}
		rows, err := s.QueryContext(ctx, args)
		if again || pq.As(err, pqerror.FeatureNotSupported, pqerror.InvalidSQLStatementName) == nil {
			return rows, err
		}
		_ = c.prepared[query].Close()
		delete(c.prepared, query)
	}
}

// unprepared is a [driver.Stmt] that is not prepared on the server.
type unprepared struct {
	conn  fullConn
	query string
}

func (unprepared) Close() error  { return nil }
func (unprepared) NumInput() int { return -1 } // -1 means unknown, so that the server checks the number of arguments

// Exec implements [driver.Stmt]. database/sql calls ExecContext instead.
func (unprepared) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

// Query implements [driver.Stmt]. database/sql calls QueryContext instead.
func (unprepared) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }

// ExecContext implements [driver.StmtExecContext].
func (u unprepared) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return u.conn.ExecContext(ctx, u.query, args)
}

// QueryContext implements [driver.StmtQueryContext].
func (u unprepared) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return u.conn.QueryContext(ctx, u.query, args)
}

// KeepsSession reports whether the connection keeps settings and prepared statements, because there is no transaction pooler. The
// connection must come from a [Connector].
func KeepsSession(c *sqlx.Conn) (keeps bool, err error) {
	err = c.Raw(func(raw any) error {
		conn, ok := raw.(*connection)
		keeps = ok && conn.canPrepare
		return nil
	})
	return keeps, err
}
