package store

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
)

const (
	// A connection that was lost is made anew at once, and then after longer and longer waits, but no longer than this.
	minReconnect = 50 * time.Millisecond
	maxReconnect = 2 * time.Second
	// … unless there are many sidecars: together they try that often.
	reconnectShare = 20 * time.Millisecond
	// maxPollInterval keeps a sidecar with a long staleness bound within what the log remembers.
	maxPollInterval = 5 * time.Second
)

var errUntold = errors.New("the database does not write all changes to its log. `keywicket migrate up` makes the triggers. " +
	"Where one is disabled: ALTER TABLE keywicket.… ENABLE ALWAYS TRIGGER tell_… (ENABLE REPLICA for tell_row). The tables " +
	"must not inherit, and keywicket.changes must have no rules and no row-level security")

// feed reads the change log and tells the cache.
type feed struct {
	cache    *cache.Cache
	log      *slog.Logger
	servers  *servers
	presence presence
	hints    *hints // nil: none are wanted
	bound    time.Duration
	trouble  atomic.Pointer[error]
	sidecars *atomic.Int64 // that are alive, this one included
	looked   time.Time     // just before this sidecar has looked at the schema

	connections chan *pollConnection // new ones
	wanted      chan struct{}        // a connection is wanted now
	suspected   chan struct{}        // there may be another server
	again       chan struct{}        // the log is to be read now

	cancel  context.CancelFunc
	running sync.WaitGroup
}

func startFeed(c Config, target *cache.Cache, s *servers, sidecars *atomic.Int64, log *slog.Logger) (f *feed, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	c.Cache = target.Config()
	f = &feed{
		cache: target, log: log, servers: s, presence: newPresence(c), bound: c.Cache.StalenessBound, sidecars: sidecars, cancel: cancel,
		connections: make(chan *pollConnection), wanted: make(chan struct{}, 1), suspected: make(chan struct{}, 1), again: make(chan struct{}, 1),
	}
	if !c.NoHints {
		if f.hints, err = newHints(c, target, f.again, f.sidecars, log); err != nil {
			cancel()
			return nil, err
		}
	}
	f.running.Go(func() { f.connect(ctx) })
	f.running.Go(func() { f.run(ctx) })
	return f, nil
}

// connect makes connections for run, one after the other.
func (f *feed) connect(ctx context.Context) {
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
			f.fail(fmt.Errorf("read the change log: %w", err))
		}
		// All sidecars lose their connections at once.
		longest := max(maxReconnect, time.Duration(f.sidecars.Load())*reconnectShare)
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

// watch returns when the connection is of no more use. From time to time it makes another one, because a new one may reach
// another server.
func (f *feed) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wanted:
			return
		case <-time.After(max(minFreshInterval, time.Duration(f.sidecars.Load())*freshShare)):
			_ = f.servers.probe(ctx) // the readings tell of errors
		case <-f.suspected:
			// Not all at once.
			select {
			case <-ctx.Done():
			case <-f.wanted:
				return
			case <-time.After(rand.N(time.Duration(f.sidecars.Load()+1) * suspectShare)):
				_ = f.servers.probe(ctx)
			}
		}
	}
}

func (f *feed) open(ctx context.Context) (*pollConnection, error) {
	c, err := f.servers.connect(ctx)
	if err != nil {
		return nil, err
	}
	p, err := within(ctx, f.servers.limit, func(ctx context.Context) (*pollConnection, error) { return newPollConnection(ctx, c) })
	if err != nil {
		abandon(c)
		return nil, err
	}
	if f.hints != nil {
		f.hints.start(p.own)
	}
	return p, nil
}

// abandon closes a connection without waiting for a server that may not answer.
func abandon(c *sqlx.Conn) { go func() { _ = c.Close() }() }

// run reads the log at its interval, and when somebody waits for it.
func (f *feed) run(ctx context.Context) {
	tick := time.NewTicker(f.interval())
	defer tick.Stop()
	const most = 4 // readings between two ticks
	extra := 0
	var c *pollConnection
	started, believed, complained := time.Now(), false, false
	for {
		select {
		case <-ctx.Done():
			if c != nil {
				f.leave(context.WithoutCancel(ctx), c)
			}
			return
		case fresh := <-f.connections:
			if c != nil {
				abandon(c.Conn)
			}
			c = fresh
		case <-f.again:
			if extra++; extra > most {
				continue
			}
		case <-tick.C:
			extra = 0
		}
		if c != nil {
			if err := f.poll(ctx, c); err != nil && ctx.Err() == nil {
				f.fail(fmt.Errorf("read the change log: %w", err))
				abandon(c.Conn)
				c = nil
				offer(f.wanted)
			}
		}
		ever, now := f.cache.Heart()
		switch {
		case now && !believed:
			f.log.Info("the change log is read: the cache is in use", "sidecar", f.presence.id)
		case !now && believed, !ever && !complained && time.Since(started) > 2*f.bound:
			complained = true
			f.log.Warn("the change log is not read: every look-up asks the database", "error", f.reason())
		}
		believed = now
	}
}

// leave ends the sidecar's presence, if that takes no time. Otherwise it counts as alive for a while.
func (f *feed) leave(ctx context.Context, c *pollConnection) {
	const limit = 200 * time.Millisecond
	_ = doWithin(ctx, limit, func(ctx context.Context) error { return f.presence.leave(ctx, c) })
	abandon(c.Conn)
}

// offer puts a signal into a channel with room for one.
func offer(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// poll reads the log once. After an error the connection is of no more use.
func (f *feed) poll(ctx context.Context, c *pollConnection) error {
	p := f.cache.Poll()
	r, err := within(ctx, f.limit(), func(ctx context.Context) (reading, error) { return c.read(ctx, p.Since) })
	switch {
	case err != nil:
		return err
	case r.Standby:
		return errors.New("the server has become a standby")
	case !f.servers.isCurrent(r.Started):
		return errors.Join(errOtherServer, f.within(ctx, c.leave))
	case !r.ID.Valid:
		offer(f.again)
		return f.within(ctx, c.look)
	case f.presence.world != r.world(): // where this sidecar's row may be missing
		err := f.within(ctx, func(ctx context.Context) error {
			return errors.Join(f.presence.register(ctx, c), f.count(ctx, c))
		})
		if err != nil {
			return err
		}
		f.presence.world = r.world()
	}
	reply, ack, away := r.reply()
	if away {
		offer(f.suspected)
	}
	// A sidecar that others take for gone must not use its memory: nobody would wait for it.
	f.cache.Told(p, reply, !f.presence.gone())
	if f.trouble.Store(nil); reply.World == "" {
		f.fail(errUntold)
	}
	if look, takesOver := turn(r.age(), time.Since(f.looked), f.interval()); look {
		sent := time.Now()
		if err := f.within(ctx, c.look); err != nil {
			return err
		}
		f.looked = sent
		if takesOver {
			offer(f.again) // its lease is nearly over
		}
	}
	// The first sign is given with the first lease, so that a new sidecar is not shown as one that does without its memory.
	first := f.presence.signs == 0 && reply.World != ""
	if !ack && !first && !f.presence.due() {
		return nil
	}
	return f.within(ctx, func(ctx context.Context) error {
		s := f.cache.Stats()
		if err := f.presence.sign(ctx, c, r.Snapshot, s.LeaseLeft, s.FeedLag); err != nil {
			return err
		}
		if f.presence.signs%6 != 1 { // there are not many more or fewer every ten seconds
			return nil
		}
		return f.count(ctx, c)
	})
}

// turn reports whether a sidecar is to look at the schema, and whether it takes over from another one. The last look of any
// sidecar is age old, its own one own. Who has looked last looks again, for all, at each reading. If that is late, another one
// takes over. An age below 0 is of a look that seems to be in the future.
func turn(age, own, interval time.Duration) (look, takesOver bool) {
	due := interval * 4 / 5
	if takesOver = own-age > interval/2; takesOver {
		due = interval * 8 / 5
	}
	return age < 0 || age >= due, takesOver
}

// count finds out how many sidecars share the database.
func (f *feed) count(ctx context.Context, c *pollConnection) error {
	n, err := f.presence.alive(ctx, c)
	if err == nil {
		f.sidecars.Store(n)
	}
	return err
}

// limit bounds each statement: what takes longer than the staleness bound is of no use.
func (f *feed) limit() time.Duration { return min(f.bound, f.servers.limit) }

func (f *feed) within(ctx context.Context, statement func(context.Context) error) error {
	return doWithin(ctx, f.limit(), statement)
}

// interval is between two readings of the log. Memory may be used for a staleness bound after the last look at the schema,
// which is up to an interval older than a reading, so one reading in a row may fail or be late.
func (f *feed) interval() time.Duration { return min(f.bound*2/7, maxPollInterval) }

func (f *feed) fail(err error) {
	err = suspectPooler(err)
	f.trouble.Store(&err)
}

func (f *feed) reason() error {
	if err := f.trouble.Load(); err != nil {
		return *err
	}
	return errors.New("the database has not answered yet")
}

// ready is false until the log was read for the first time. Later, look-ups do without the cache.
func (f *feed) ready() error {
	if ever, _ := f.cache.Heart(); ever {
		return nil
	}
	return fmt.Errorf("changes in the database are not heard: %w", f.reason())
}

// notices tells why the cache is not in use, once it was.
func (f *feed) notices() []string {
	if ever, now := f.cache.Heart(); !ever || now {
		return nil
	}
	return []string{fmt.Sprintf("every look-up asks the database, because changes are not heard: %v", f.reason())}
}

func (f *feed) close() {
	f.cancel()
	if f.hints != nil {
		f.hints.close()
	}
	f.running.Wait()
}
