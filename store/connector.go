package store

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

// Pooler says whether a pooler of connections stands in front of the database, such as pgbouncer. One that gives each transaction
// another connection of its own must not be sent prepared statements: lib/pq gives them the same names on every connection, so a
// query would get another one's answer.
type Pooler string

// What is known of the pooler.
const (
	// PoolerAuto compares process ids on each connection: the one that the server told at first, and the one of the Postgres
	// process that answers.
	PoolerAuto Pooler = "auto"
	// PoolerNone is for direct connections, and for a pooler that keeps one connection for a whole session.
	PoolerNone Pooler = "none"
	// PoolerTransaction is for a pooler of transactions.
	PoolerTransaction Pooler = "transaction"
)

// Poolers are all of them.
func Poolers() []Pooler { return []Pooler{PoolerAuto, PoolerNone, PoolerTransaction} }

// connectLimit bounds the making of a connection as a whole: with TLS and a password it takes six to ten round trips.
const connectLimit = 5 * time.Second

// connector makes connections, one at a time.
type connector struct {
	settings settings
	pooler   Pooler
	limit    time.Duration // of each read and each write, once the connection is made; 0: none
}

func newConnector(databaseURL string, pooler Pooler, limit time.Duration) (connector, error) {
	s, err := parse(databaseURL)
	if err != nil {
		return connector{}, err
	}
	if s.pooled && pooler == PoolerAuto {
		pooler = PoolerTransaction
	}
	// A query with arguments is parsed, bound and run in one round trip. In two, a pooler of transactions may send the second
	// one to another server process.
	s.BinaryParameters = true
	return connector{settings: s, pooler: pooler, limit: limit}, nil
}

// Connect implements [driver.Connector].
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, connectError(err)
	}
	return conn, nil
}

// connect tries one host after the other. lib/pq would do so too, but a host that does not answer would use up all the time.
func (c connector) connect(ctx context.Context) (driver.Conn, error) {
	all := hosts(c.settings.Config)
	var errs []error
	for _, host := range all {
		conn, err := c.connectTo(ctx, host, connectLimit/time.Duration(len(all)))
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

// hosts are configurations of one host each, in the order in which they are to be tried.
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
		// lib/pq believes what it was told when it logged in, which a pooler may remember of another server. See greet.
		all[i].TargetSessionAttrs = pq.TargetSessionAttrsAny
	}
	if c.LoadBalanceHosts == pq.LoadBalanceHostsRandom {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

func (c connector) connectTo(ctx context.Context, host pq.Config, limit time.Duration) (driver.Conn, error) {
	plain, err := pq.NewConnectorConfig(host)
	if err != nil {
		return nil, fmt.Errorf("prepare the database connection: %w", err)
	}
	d := &dialer{connecting: limit, limit: c.limit, keepAlive: c.settings.keepAlive}
	if timeout := host.ConnectTimeout; timeout > 0 {
		d.connecting = min(d.connecting, timeout)
	}
	plain.Dialer(d)
	made, err := plain.Connect(ctx)
	if err != nil {
		return nil, err
	}
	full, ok := made.(fullConn)
	if !ok { // another version of lib/pq
		return nil, errors.Join(fmt.Errorf("the driver's connection %T lacks a method", made), made.Close())
	}
	writes := c.settings.TargetSessionAttrs == pq.TargetSessionAttrsReadWrite
	direct, err := greet(ctx, full, writes)
	if err == nil && !full.IsValid() {
		err = cmp.Or(ctx.Err(), driver.ErrBadConn)
	}
	if err == nil {
		err = d.connected()
	}
	if errors.Is(err, driver.ErrBadConn) { // which would count as a connection that was lost, and be tried again at once
		err = errors.New("the server has closed the connection at the first query: if it is a pooler, its log says why")
	}
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return &connection{
		fullConn: full, made: time.Now(), prepares: c.pooler == PoolerNone || c.pooler == PoolerAuto && direct,
	}, nil
}

// Driver implements [driver.Connector].
func (c connector) Driver() driver.Driver { return &pq.Driver{} }

// greet refuses a standby, and a server that is too old; if it has to take writes, also one that does not. It reports whether the
// connection leads to the Postgres process that answered when it was made. A pooler makes up the process id that it tells its
// clients, because the connection to Postgres is not theirs.
func greet(ctx context.Context, c fullConn, writes bool) (direct bool, err error) {
	const query = `SELECT current_setting('server_version_num')::int, pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'`
	rows, err := c.QueryContext(ctx, query, nil)
	if err != nil {
		return false, err
	}
	var row [4]driver.Value
	if err := errors.Join(rows.Next(row[:]), rows.Close()); err != nil {
		return false, err
	}
	version, known := row[0].(int64)
	pid, _ := row[1].(int64)
	standby, told := row[2].(bool)
	readOnly, _ := row[3].(bool)
	switch {
	case !known || !told:
		return false, errors.New("the server does not answer as Postgres does")
	case standby:
		return false, errors.New("the server is a standby (in hot standby mode): keywicket needs the primary")
	case writes && readOnly:
		return false, errors.New("the server takes no writes (session is read-only), and the database URL has target_session_attrs=read-write")
	}
	return pid != 0 && pid == toldPID(c), checkVersion(int(version))
}

// toldPID is the process id that the server told when the connection was made; 0 if it cannot be found out. lib/pq keeps it for
// requests to cancel a query, and shows it to nobody.
func toldPID(c driver.Conn) int64 {
	v := reflect.Indirect(reflect.ValueOf(c))
	if v.Kind() != reflect.Struct {
		return 0
	}
	if pid := v.FieldByName("pid"); pid.IsValid() && pid.CanInt() {
		return pid.Int()
	}
	return 0
}

// fullConn is what database/sql may use of lib/pq's connection.
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

// connection prepares nothing on the server unless it may. A query that is not prepared takes one round trip, which a pooler
// keeps together (see newConnector).
type connection struct {
	fullConn
	made     time.Time
	era      int // see dials
	prepares bool
	prepared map[string]driver.Stmt // the queries of look-ups, by text
	replaced func() bool            // it is old, and another connection is to take its place; nil: none will
}

// PrepareContext implements [driver.ConnPrepareContext].
func (c *connection) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.prepares || strings.HasPrefix(strings.TrimSpace(query), "COPY ") { // which is a query, and lib/pq's only way to send it
		return c.fullConn.PrepareContext(ctx, query)
	}
	return unprepared{c.fullConn, query}, nil
}

// prepareAhead prepares queries that will be asked for. lib/pq gives a connection up if the context ends while a query is
// being prepared. The look-up that needs a query prepares it, if that fails here.
func (c *connection) prepareAhead(ctx context.Context, queries []string) {
	if !c.prepares {
		return
	}
	// A query cannot be prepared while a table that it reads is locked. Look-ups that do not read that table should get the
	// connection nevertheless.
	if _, err := c.ExecContext(ctx, `SET lock_timeout = 50`, nil); err != nil {
		return
	}
	for _, query := range queries {
		if _, err := c.statement(ctx, query); err != nil {
			break
		}
	}
	_, _ = c.ExecContext(ctx, `RESET lock_timeout`, nil) // a connection on which this fails is lost
}

// statement returns the prepared query. It prepares the query when it is first asked for.
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

// ask runs a query that stays prepared. It prepares the query anew if it is outdated: a column has another type now, or somebody
// has dropped what was prepared. The caller closes the rows.
func (c *connection) ask(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
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

// ResetSession implements [driver.SessionResetter]. It is called before each use of the connection.
func (c *connection) ResetSession(ctx context.Context) error {
	if c.replaced != nil && c.replaced() {
		return driver.ErrBadConn
	}
	return c.fullConn.ResetSession(ctx)
}

// unprepared is a query that looks like a prepared one.
type unprepared struct {
	conn  fullConn
	query string
}

func (unprepared) Close() error  { return nil }
func (unprepared) NumInput() int { return -1 } // the server counts them

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

// ownSession reports whether a connection keeps its session: what is set and prepared on it stays.
func ownSession(c *sqlx.Conn) (own bool, err error) {
	err = c.Raw(func(raw any) error {
		conn, ok := raw.(*connection)
		own = ok && conn.prepares
		return nil
	})
	return own, err
}
