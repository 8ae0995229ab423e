package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/pool"
)

const (
	// After a connection is lost, the feed connects again soon. After each failed attempt, the pause before the next attempt grows,
	// up to maxReconnect. With many sidecars, the longest pause is reconnectPerSidecar times the number of sidecars. So, on
	// average, all sidecars together make at most one attempt per reconnectPerSidecar.
	minReconnect        = 50 * time.Millisecond
	maxReconnect        = 2 * time.Second
	reconnectPerSidecar = 20 * time.Millisecond
	// From time to time, a sidecar opens a new connection to detect that the configured address leads to another server. A single
	// sidecar opens one connection per second. Several sidecars together open one connection per 500 ms, because a connection costs
	// Postgres up to 25 ms of CPU time. The first sidecar that reaches another server notifies the other sidecars. The other
	// sidecars then connect at random times, on average one sidecar per 5 ms.
	minNewConnectionInterval = time.Second
	newConnectionPerSidecar  = 500 * time.Millisecond
	probePerSidecar          = 5 * time.Millisecond
	// maxPollInterval ensures that even a sidecar with a long staleness bound reads the rows of the log before they are deleted.
	maxPollInterval = 5 * time.Second
)

var errNotLogged = errors.New("the database does not write all changes to its log. `keywicket migrate up` creates the triggers. " +
	"To enable a disabled trigger, run ALTER TABLE keywicket.TABLE ENABLE ALWAYS TRIGGER NAME. For the trigger tell_row, write " +
	"ENABLE REPLICA TRIGGER tell_row instead. The tables must have no parent tables and no child tables. The table " +
	"keywicket.changes must have no rules and no row-level security")

// Feed reads the change log and applies its changes to the cache.
type Feed struct {
	cache        *cache.Cache
	log          *slog.Logger
	servers      *pool.Servers
	presence     presence
	hints        *hints // nil if hints are disabled
	bound        time.Duration
	trouble      atomic.Pointer[error]
	sidecars     *atomic.Int64 // number of live sidecars, including this sidecar
	lastVerified time.Time     // time just before this sidecar's last verification of the schema

	connections chan *pollConnection // new connections
	reconnect   chan struct{}        // a signal: open another connection now
	probeNow    chan struct{}        // a signal: open a new connection now, because another server may have become the primary
	readNow     chan struct{}        // a signal: read the log now

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Config configures a feed. Only URL is required.
type Config struct {
	// URL is the database URL for reading the change log. HintsURL is the URL for listening to notifications (hints). If HintsURL
	// is empty, the feed uses URL for both. Set HintsURL only to bypass a pooler.
	URL, HintsURL string
	// NoHints disables hints: the sidecar reads the change log only at regular intervals.
	NoHints bool
	// Version is the version of this program, and Policies is a hash of its policies. The list of sidecars shows both.
	Version, Policies string
}

// Start starts a feed. The feed reads the change log on connections of the servers s, and applies the changes to the cache target.
// It stores the number of live sidecars, including this sidecar, in the parameter `sidecars`. The caller must close the feed.
func Start(c Config, target *cache.Cache, s *pool.Servers, sidecars *atomic.Int64, log *slog.Logger) (f *Feed, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	f = &Feed{
		cache: target, log: log, servers: s, presence: newPresence(c, target.Config()), bound: target.Config().StalenessBound, sidecars: sidecars, cancel: cancel,
		connections: make(chan *pollConnection), reconnect: make(chan struct{}, 1), probeNow: make(chan struct{}, 1), readNow: make(chan struct{}, 1),
	}
	if !c.NoHints {
		if f.hints, err = newHints(c, target, f.readNow, f.sidecars, log); err != nil {
			cancel()
			return nil, err
		}
	}
	f.running.Go(func() { f.connect(ctx) })
	f.running.Go(func() { f.run(ctx) })
	return f, nil
}

// connect opens one connection at a time, on which the method run reads the log. When run needs a new connection, connect opens
// the next one.
func (f *Feed) connect(ctx context.Context) {
	wait := minReconnect
	for ctx.Err() == nil {
		started := time.Now()
		c, err := f.open(ctx)
		if err == nil {
			select {
			case f.connections <- c:
			case <-ctx.Done():
				_ = c.Close()
				return
			}
			f.watch(ctx)
		} else if ctx.Err() == nil {
			f.setTrouble(fmt.Errorf("read the change log: %w", err))
		}
		// All sidecars may lose their connections at the same time, so limit how often all sidecars together try to connect.
		longest := max(maxReconnect, time.Duration(f.sidecars.Load())*reconnectPerSidecar)
		if time.Since(started) > longest {
			wait = minReconnect
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, longest)
	}
}

// watch waits until a new connection for reading the log is needed. From time to time, watch opens another connection, because a
// new connection may reach another server.
func (f *Feed) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.reconnect:
			return
		case <-time.After(max(minNewConnectionInterval, time.Duration(f.sidecars.Load())*newConnectionPerSidecar)):
			_ = f.servers.Probe(ctx) // ignore the error, because the next reading reports it
		case <-f.probeNow:
			// Wait for a random time, so that the sidecars do not connect at the same time.
			select {
			case <-ctx.Done():
			case <-f.reconnect:
				return
			case <-time.After(rand.N(time.Duration(f.sidecars.Load()+1) * probePerSidecar)):
				_ = f.servers.Probe(ctx)
			}
		}
	}
}

func (f *Feed) open(ctx context.Context) (*pollConnection, error) {
	c, err := f.servers.Connect(ctx)
	if err != nil {
		return nil, err
	}
	p, err := database.WithTimeout(ctx, database.ConnectLimit, func(ctx context.Context) (*pollConnection, error) { return newPollConnection(ctx, c) })
	if err != nil {
		abandon(c)
		return nil, err
	}
	if f.hints != nil {
		f.hints.start(p.keepsSession)
	}
	return p, nil
}

// abandon closes a connection in the background, because the server may not answer.
func abandon(c *sqlx.Conn) { go func() { _ = c.Close() }() }

// run reads the log at each interval, and after each signal on f.readNow.
func (f *Feed) run(ctx context.Context) {
	tick := time.NewTicker(f.interval())
	defer tick.Stop()
	const maxExtra = 4 // maximum number of extra readings between two ticks
	extra := 0
	var c *pollConnection
	started, wasHeld, warned := time.Now(), false, false
	for {
		select {
		case <-ctx.Done():
			if c != nil {
				f.stop(context.WithoutCancel(ctx), c)
			}
			return
		case fresh := <-f.connections:
			if c != nil {
				abandon(c.Conn)
			}
			c = fresh
		case <-f.readNow:
			if extra++; extra > maxExtra {
				continue
			}
		case <-tick.C:
			extra = 0
		}
		if c != nil {
			if err := f.poll(ctx, c); err != nil && ctx.Err() == nil {
				f.setTrouble(fmt.Errorf("read the change log: %w", err))
				abandon(c.Conn)
				c = nil
				signal(f.reconnect)
			}
		}
		everHeld, isHeld := f.cache.LeaseState()
		switch {
		case isHeld && !wasHeld:
			f.log.Info("the change log is read: the cache is in use", "sidecar", f.presence.id)
		case !isHeld && wasHeld, !everHeld && !warned && time.Since(started) > 2*f.bound:
			warned = true
			f.log.Warn("the change log is not read: every look-up queries the database", "error", f.reason())
		}
		wasHeld = isHeld
	}
}

// stop marks the sidecar as stopped. If that takes too long, stop gives up, and the sidecar still counts as alive for some time.
func (f *Feed) stop(ctx context.Context, c *pollConnection) {
	const limit = 200 * time.Millisecond
	_ = database.DoWithTimeout(ctx, limit, func(ctx context.Context) error { return f.presence.markStopped(ctx, c) })
	abandon(c.Conn)
}

// signal sends to a channel with a buffer of one. If the buffer is full, it does nothing, because a signal is already pending.
func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// poll reads the log once. After an error, the caller has to replace the connection.
func (f *Feed) poll(ctx context.Context, c *pollConnection) error {
	p := f.cache.BeginPoll()
	r, err := database.WithTimeout(ctx, f.limit(), func(ctx context.Context) (reading, error) { return c.read(ctx, p.PreviousSnapshot) })
	switch {
	case err != nil:
		return err
	case r.Standby:
		return errors.New("the server has become a standby")
	case !f.servers.IsCurrent(r.Started):
		return errors.Join(pool.ErrOtherServer, f.withTimeout(ctx, c.reportNewServer))
	case !r.ID.Valid:
		signal(f.readNow)
		return f.withTimeout(ctx, c.verifySchema)
	case f.presence.fingerprint != r.fingerprint(): // the server's list of sidecars may not contain this sidecar
		err := f.withTimeout(ctx, func(ctx context.Context) error {
			return errors.Join(f.presence.register(ctx, c), f.countSidecars(ctx, c))
		})
		if err != nil {
			return err
		}
		f.presence.fingerprint = r.fingerprint()
	}
	reply, ack, newServer := r.reply()
	if newServer {
		signal(f.probeNow)
	}
	// If other processes may consider this sidecar stopped, WaitForSidecars does not wait for this sidecar. So this sidecar must
	// not use its cache.
	f.cache.Apply(p, reply, !f.presence.mayBePresumedStopped())
	if f.trouble.Store(nil); reply.Fingerprint == "" {
		f.setTrouble(errNotLogged)
	}
	if due, takesOver := verificationDue(r.age(), time.Since(f.lastVerified), f.interval()); due {
		sent := time.Now()
		if err := f.withTimeout(ctx, c.verifySchema); err != nil {
			return err
		}
		f.lastVerified = sent
		if takesOver {
			signal(f.readNow) // this sidecar's lease has nearly expired, so read the log again now
		}
	}
	// Send a heartbeat as soon as the lease is valid for the first time. Otherwise, the list of sidecars would show that the new
	// sidecar does not use its cache.
	first := f.presence.heartbeats == 0 && reply.Fingerprint != ""
	if !ack && !first && !f.presence.heartbeatDue() {
		return nil
	}
	return f.withTimeout(ctx, func(ctx context.Context) error {
		s := f.cache.Stats()
		if err := f.presence.heartbeat(ctx, c, r.Snapshot, s.LeaseLeft, s.FeedLag); err != nil {
			return err
		}
		if f.presence.heartbeats%6 != 1 { // count only at every sixth heartbeat, because the number of sidecars changes slowly
			return nil
		}
		return f.countSidecars(ctx, c)
	})
}

// countSidecars counts the live sidecars that use this database, and stores the number.
func (f *Feed) countSidecars(ctx context.Context, c *pollConnection) error {
	n, err := f.presence.countAlive(ctx, c)
	if err == nil {
		f.sidecars.Store(n)
	}
	return err
}

// limit returns the time limit of a statement. A result that takes longer than the staleness bound is useless.
func (f *Feed) limit() time.Duration { return min(f.bound, database.ConnectLimit) }

func (f *Feed) withTimeout(ctx context.Context, statement func(context.Context) error) error {
	return database.DoWithTimeout(ctx, f.limit(), statement)
}

// interval returns the time between two readings of the log. A reading extends the lease, during which the sidecar may use its
// cache. The lease ends one staleness bound after the last verification of the schema, which is up to one interval older than the
// reading. The interval is short enough that the lease stays valid even if one reading fails or is late.
func (f *Feed) interval() time.Duration { return min(f.bound*2/7, maxPollInterval) }

func (f *Feed) setTrouble(err error) {
	err = database.AddPoolerRemedy(err)
	f.trouble.Store(&err)
}

func (f *Feed) reason() error {
	if err := f.trouble.Load(); err != nil {
		return *err
	}
	return errors.New("the database has not answered yet")
}

// Ready returns an error until the log was read for the first time. After the first reading, Ready returns nil, because look-ups
// also work without the cache.
func (f *Feed) Ready() error {
	if everHeld, _ := f.cache.LeaseState(); everHeld {
		return nil
	}
	return fmt.Errorf("the change log is not read: %w", f.reason())
}

// Warnings returns the reason if the cache is no longer in use.
func (f *Feed) Warnings() []string {
	if everHeld, isHeld := f.cache.LeaseState(); !everHeld || isHeld {
		return nil
	}
	return []string{fmt.Sprintf("every look-up queries the database, because the change log is not read: %v", f.reason())}
}

// Close stops the feed, and marks this sidecar as stopped.
func (f *Feed) Close() {
	f.cancel()
	if f.hints != nil {
		f.hints.close()
	}
	f.running.Wait()
}
