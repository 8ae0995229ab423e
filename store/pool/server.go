package pool

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

	"github.com/keywicket/keywicket/store/database"
)

// server identifies one run of a Postgres server. After a restart, the value is different.
type server struct {
	Started  int64  `db:"started"`
	Timeline string `db:"timeline"`
	System   int64  `db:"system"` // the cluster's identifier; 0 if this login has no privilege to read it
}

// timelineMemory is the time for which a server of the same cluster with an older timeline is not accepted, counted from the time
// when the current server was last seen. Later, the older timeline most likely means that a backup was restored.
const timelineMemory = time.Minute

// Servers decides which server is the current one. After a failover, old connections may stay open, so look-ups, the change feed
// and new connections may reach different servers. The current server is the server that the newest connection has reached, with
// one exception: within a cluster, the server with the greater timeline takes precedence. Answers from other servers are
// discarded.
type Servers struct {
	fresh   *sqlx.DB // it keeps no idle connections, so each use opens a new connection
	lookups *sqlx.DB
	log     *slog.Logger

	dropUnused func() error // closes the open connections that the pool lookups has not used yet

	onSwitch func() // called when another server becomes the current one

	started atomic.Int64       // value of current.Started; 0 if no server is known yet
	finding singleflight.Group // the call of FindCurrent in progress

	mu       sync.Mutex
	current  server
	lastSeen time.Time // when the current server was last seen
}

// ErrOtherServer means that an answer came from a server that is not the current server.
var ErrOtherServer = errors.New("connections reach different servers: the address of the database leads to more than one primary, " +
	"or an old primary still runs after a failover")

// NewServers returns the Servers for two pools. The parameter `lookups` is the pool for look-ups. The parameter `fresh` is a pool
// that NewServers configures to open a new connection for each use. The parameter `dropUnused` is a function that closes the open
// connections that the pool `lookups` has not used yet. The caller must close the Servers. Close also closes the pool `fresh`.
func NewServers(fresh, lookups *sqlx.DB, dropUnused func() error, log *slog.Logger) *Servers {
	fresh.SetMaxIdleConns(-1)
	return &Servers{fresh: fresh, lookups: lookups, dropUnused: dropUnused, log: log, onSwitch: func() {}}
}

// OnSwitch sets a function to call when another server becomes the current one. Call OnSwitch before the first connection is
// opened.
func (s *Servers) OnSwitch(call func()) { s.onSwitch = call }

// IsCurrent reports whether an answer from a server may be used. The parameter `started` is the value of [database.ServerStarted]
// on this server.
func (s *Servers) IsCurrent(started int64) bool {
	current := s.started.Load()
	return current == 0 || current == started
}

// Connect opens a new connection. The new connection decides which server is the current server (see the method consider). The
// error is [ErrOtherServer] if the connection reaches a server that is not the current server. The caller must close the
// connection.
func (s *Servers) Connect(ctx context.Context) (*sqlx.Conn, error) {
	return database.WithTimeout(ctx, database.ConnectLimit, func(ctx context.Context) (*sqlx.Conn, error) {
		c, err := s.fresh.Connx(ctx)
		if err != nil {
			return nil, err
		}
		found, err := identify(ctx, c)
		if err == nil && !s.consider(found, true) {
			err = ErrOtherServer
		}
		err = cmp.Or(err, ctx.Err()) // if ctx has ended, WithTimeout has returned without the connection, so close it here
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	})
}

// Probe opens a new connection only to find out which server it reaches.
func (s *Servers) Probe(ctx context.Context) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}

// FindCurrent finds out which server is the current server. Call FindCurrent after a look-up was answered by a server that is not
// the current server. Concurrent calls share one attempt.
func (s *Servers) FindCurrent(ctx context.Context) error {
	done := s.finding.DoChan("", func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		// The pool reuses the connection that was most recently returned to it. This connection most likely leads to the server
		// that answered the look-up.
		found, err := database.WithTimeout(ctx, database.ConnectLimit, func(ctx context.Context) (server, error) { return identify(ctx, s.lookups) })
		if err == nil {
			s.consider(found, false)
		}
		return nil, s.Probe(ctx)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

// consider decides whether the candidate becomes the current server, and reports whether it is now the current server. The
// parameter `fresh` means that a new connection has reached the candidate.
func (s *Servers) consider(candidate server, fresh bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.current
	newer := candidate.System == before.System && candidate.Timeline > before.Timeline
	older := candidate.System == before.System && candidate.Timeline < before.Timeline && time.Since(s.lastSeen) < timelineMemory
	switch {
	case candidate.Started == before.Started:
	case before.Started == 0, newer, fresh && !older:
		s.current = candidate
		s.started.Store(candidate.Started)
		s.onSwitch()
		if before.Started != 0 {
			s.log.Warn("the database is served by another server, or was restarted", "timeline", candidate.Timeline, "timeline_before", before.Timeline)
		}
		s.dropIdle()
	default:
		s.dropIdle()
		return false
	}
	s.lastSeen = time.Now()
	return true
}

// dropIdle closes the idle connections for look-ups. It cannot close a connection that is in use. If this connection leads to a
// server that is not current, the next answer from this server causes another call of dropIdle.
func (s *Servers) dropIdle() {
	_ = s.dropUnused() // errors do not matter, because these connections were never used
	s.lookups.SetMaxIdleConns(-1)
	s.lookups.SetMaxIdleConns(s.lookups.Stats().MaxOpenConnections)
}

// identify returns the server of a connection. It fails on a standby.
func identify(ctx context.Context, db sqlx.QueryerContext) (found server, err error) {
	const query = `SELECT ` + database.ServerStarted + ` AS started, COALESCE(` + database.Timeline + `, '') AS timeline, `
	err = sqlx.GetContext(ctx, db, &found, query+`system_identifier AS system FROM pg_control_system()`)
	if pq.As(err, pqerror.InsufficientPrivilege, pqerror.FeatureNotSupported) != nil {
		err = sqlx.GetContext(ctx, db, &found, query+`0 AS system`)
	}
	if err == nil && found.Timeline == "" {
		err = errors.New("the server is a standby: keywicket needs the primary")
	}
	if err != nil {
		return server{}, fmt.Errorf("identify the server: %w", err)
	}
	return found, nil
}

// Watch opens a new connection from time to time, for a directory without a change feed. It returns when the context ends.
func (s *Servers) Watch(ctx context.Context) {
	// The change feed counts the sidecars. It derives the interval between its new connections from their number. Without a change
	// feed, the number is unknown, so this interval is constant.
	const interval = 30 * time.Second
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_ = s.Probe(ctx) // look-ups report the errors
	}
}

// Close closes the connections that Connect opens.
func (s *Servers) Close() error { return s.fresh.Close() }
