package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"golang.org/x/sync/singleflight"
)

// serverStarted identifies a server in SQL: when its postmaster started, in microseconds since 1970. No two servers of one
// cluster share it, and a restart changes it.
const serverStarted = `(date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8`

// timeline is the WAL timeline in SQL, eight hexadecimal digits; NULL on a standby. A promotion makes a greater one.
const timeline = `CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END`

// server is one start of one Postgres server.
type server struct {
	Started  int64  `db:"started"`
	Timeline string `db:"timeline"`
	System   int64  `db:"system"` // the cluster's identifier; 0 if this login may not read it
}

const (
	// A new connection is made from time to time, to see which server the configured address leads to: every second, or as
	// often as all sidecars together make one in 500 ms, since a connection costs Postgres up to 25 ms of a processor. The first that
	// reaches another server tells the others, which then look too, 5 ms apart.
	minFreshInterval = time.Second
	freshShare       = 500 * time.Millisecond
	suspectShare     = 5 * time.Millisecond
	// timelineMemory is for how long a server of an older timeline is refused after a newer one was seen. Later it counts
	// as a backup that was restored on purpose.
	timelineMemory = time.Minute
)

// servers decides which server answers. Connections outlive a failover that does not close them, so look-ups, the change
// feed and a new connection may reach different servers. Then the newest connection decides, and of two servers of one
// cluster the greater timeline; every answer of another server is dropped.
type servers struct {
	fresh   *sqlx.DB // keeps no connection: each use is a new one
	lookups *sqlx.DB
	limit   time.Duration // of connecting and asking
	log     *slog.Logger

	dropSpare func() error // closes connections that lookups has not taken yet

	switched func() // is called when another server has become the current one

	started atomic.Int64 // of the current server; 0: none is known yet
	flights singleflight.Group

	mu      sync.Mutex
	current server
	seen    time.Time // when the current server was last seen
}

// errOtherServer is for an answer that came from another server than the current one.
var errOtherServer = errors.New("connections reach different servers: the address of the database leads to more than one primary, " +
	"or an old primary still runs after a failover")

func openServers(fresh, lookups *sqlx.DB, dropSpare func() error, log *slog.Logger) *servers {
	fresh.SetMaxIdleConns(-1)
	return &servers{fresh: fresh, lookups: lookups, dropSpare: dropSpare, limit: connectLimit, log: log, switched: func() {}}
}

// isCurrent reports whether an answer of the server may be used.
func (s *servers) isCurrent(started int64) bool {
	current := s.started.Load()
	return current == 0 || current == started
}

// connect makes a new connection, and considers the server that it reaches. The caller closes the connection.
func (s *servers) connect(ctx context.Context) (*sqlx.Conn, error) {
	return within(ctx, s.limit, func(ctx context.Context) (*sqlx.Conn, error) {
		c, err := s.fresh.Connx(ctx)
		if err != nil {
			return nil, err
		}
		found, err := identify(ctx, c)
		if err == nil && !s.consider(found, true) {
			err = errOtherServer
		}
		err = cmp.Or(err, ctx.Err()) // nobody would close the connection
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	})
}

// probe makes a new connection only to consider the server that it reaches.
func (s *servers) probe(ctx context.Context) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}

// settle is called after a look-up was answered by another server than the current one.
func (s *servers) settle(ctx context.Context) error {
	done := s.flights.DoChan("", func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		// The pool reuses the connection that was returned last, which most likely is the one that differs.
		found, err := within(ctx, s.limit, func(ctx context.Context) (server, error) { return identify(ctx, s.lookups) })
		if err == nil {
			s.consider(found, false)
		}
		return nil, s.probe(ctx)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

// consider reports whether the server is the current one, or becomes it.
func (s *servers) consider(found server, fresh bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.current
	newer := found.System == before.System && found.Timeline > before.Timeline
	older := found.System == before.System && found.Timeline < before.Timeline && time.Since(s.seen) < timelineMemory
	switch {
	case found.Started == before.Started:
	case before.Started == 0, newer, fresh && !older:
		s.current = found
		s.started.Store(found.Started)
		s.switched()
		if before.Started != 0 {
			s.log.Warn("the database is served by another server, or was restarted", "timeline", found.Timeline, "timeline_before", before.Timeline)
		}
		s.dropIdle()
	default:
		s.dropIdle()
		return false
	}
	s.seen = time.Now()
	return true
}

// dropIdle closes the connections of look-ups. Those that are in use are closed when they give an answer of another server.
func (s *servers) dropIdle() {
	_ = s.dropSpare() // they were never used
	s.lookups.SetMaxIdleConns(-1)
	s.lookups.SetMaxIdleConns(s.lookups.Stats().MaxOpenConnections)
}

func identify(ctx context.Context, db sqlx.QueryerContext) (found server, err error) {
	const query = `SELECT ` + serverStarted + ` AS started, COALESCE(` + timeline + `, '') AS timeline, `
	err = sqlx.GetContext(ctx, db, &found, query+`system_identifier AS system FROM pg_control_system()`)
	if pq.As(err, pqerror.InsufficientPrivilege, pqerror.FeatureNotSupported) != nil {
		err = sqlx.GetContext(ctx, db, &found, query+`0 AS system`)
	}
	if err == nil && found.Timeline == "" {
		err = errors.New("the server is a standby: keywicket needs the primary")
	}
	if err != nil {
		return server{}, fmt.Errorf("ask which server this is: %w", err)
	}
	return found, nil
}

// watch makes a new connection from time to time, where no change feed does.
func (s *servers) watch(ctx context.Context) {
	const interval = 30 * time.Second // without a cache nothing is known of the other sidecars
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_ = s.probe(ctx) // look-ups tell of errors
	}
}

func (s *servers) close() error { return s.fresh.Close() }
