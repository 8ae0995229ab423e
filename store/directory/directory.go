package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/feed"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/pool"
)

// Config configures a Directory. Only URL is required.
type Config struct {
	// URL is the database URL, in a form that [database.Open] accepts. The login needs only the role keywicket_sidecar.
	URL string
	// MaxOpenConnections limits the connections for look-ups and for writing the use of tokens. Up to three further connections do not
	// count. One reads the change log, and one listens for notifications. One is opened from time to time, to detect a failover.
	// The default is 8.
	MaxOpenConnections int
	// LookupTimeout is the time limit of a look-up, from its start to its answer, with all retries. Set LookupTimeout to less than
	// half of the caller's own time limit, so that the caller can still answer its client. The default is 200ms.
	LookupTimeout time.Duration
	// Pooler is the kind of connection pooler that the URL leads to. The default is PoolerAuto.
	Pooler database.Pooler
	// FeedURL is the database URL for listening to notifications (hints). Set FeedURL to bypass a connection pooler, because
	// poolers do not forward notifications. The default is URL.
	FeedURL string
	// NoHints disables hints: the sidecar reads the change log only at regular intervals. Without hints, the sidecar needs one
	// connection less. It also needs less CPU time, because Postgres wakes each listening sidecar for each change.
	NoHints bool
	// Cache configures the cache in front of the look-ups.
	Cache cache.Config
	// NoCache disables the cache: every look-up queries the database.
	NoCache bool
	// UsageInterval is the time between two writes of the use of tokens. The default is 5s.
	UsageInterval time.Duration
	// Version is the version of this program, and Policies is a hash of its policies. The list of sidecars shows both.
	Version, Policies string
	// Clock only measures how long ago a token was used. Expiries are compared with the database's clock. The default is
	// time.Now.
	Clock func() time.Time
}

const (
	defaultLookupTimeout = 200 * time.Millisecond
	defaultUsageInterval = 5 * time.Second

	// connectionIdle is how long unused connections stay open after a burst of look-ups. It is longer than upkeepPause. So every
	// sidecar keeps a connection for the upkeep (the deletion of old rows, once a minute), and does not open a new connection
	// every minute.
	connectionIdle = 2 * upkeepPause
)

func (c Config) withDefaults() (Config, error) {
	if c.MaxOpenConnections == 0 {
		c.MaxOpenConnections = database.DefaultMaxOpenConnections
	}
	if c.LookupTimeout == 0 {
		c.LookupTimeout = defaultLookupTimeout
	}
	if c.Pooler == "" {
		c.Pooler = database.PoolerAuto
	}
	if c.UsageInterval == 0 {
		c.UsageInterval = defaultUsageInterval
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	switch {
	case !slices.Contains(database.Poolers(), c.Pooler):
		return c, fmt.Errorf("pooler: %q is not one of %v", c.Pooler, database.Poolers())
	case c.MaxOpenConnections < 0:
		return c, fmt.Errorf("max_open_connections: %d is not positive", c.MaxOpenConnections)
	case c.LookupTimeout < 0:
		return c, fmt.Errorf("lookup_timeout: %v is not positive", c.LookupTimeout)
	case c.UsageInterval < 0:
		return c, fmt.Errorf("usage_interval: %v is not positive", c.UsageInterval)
	}
	return c, nil
}

// Directory answers look-ups with data from Postgres, and caches the answers. It also counts the requests of each token. A Directory is
// safe for concurrent use.
type Directory struct {
	lookups *lookups
	servers *pool.Servers
	cache   *cache.Cache // nil without a cache
	feed    *feed.Feed
	usage   *usage

	stopWatching context.CancelFunc // nil with a cache, because the feed then detects a change of the server
}

var _ authz.Directory = (*Directory)(nil)

// Open starts a directory, even if the database is unreachable. While the database is unreachable, look-ups fail, and
// [Directory.Ready] returns an error. A nil logger discards all messages. The caller must close the directory.
func Open(c Config, log *slog.Logger) (_ *Directory, err error) {
	c, err = c.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close(context.Background()))
		}
	}()
	// When a look-up times out, it cancels its query and keeps the connection. The connection's time limit is twice LookupTimeout,
	// so that the server has time to confirm the cancellation.
	connections, err := database.NewConnector(c.URL, c.Pooler, 2*c.LookupTimeout)
	if err != nil {
		return nil, err
	}
	sidecars := new(atomic.Int64) // number of live sidecars, including this one
	dialer := pool.NewDialer(connections, lookup.Queries(), database.ConnectionLifetime, connectionIdle, sidecars.Load)
	db := database.OpenDB(dialer)
	db.SetMaxOpenConns(c.MaxOpenConnections)
	db.SetMaxIdleConns(c.MaxOpenConnections)
	db.SetConnMaxIdleTime(connectionIdle)
	d.servers = pool.NewServers(database.OpenDB(connections.WithLimit(database.ConnectLimit)), db, dialer.Drop, log)
	d.lookups = newLookups(db, d.servers, c)
	d.usage = startUsage(db, c, log)
	if c.NoCache {
		ctx, cancel := context.WithCancel(context.Background())
		d.stopWatching = cancel
		go d.servers.Watch(ctx)
		return d, nil
	}
	c.Cache.LoadTimeout = c.LookupTimeout
	if d.cache, err = cache.New(c.Cache, d.lookups, log); err != nil {
		return nil, fmt.Errorf("cache.%w", err)
	}
	// The new server may belong to another cluster, so cached answers may be wrong. A hint without keys makes the cache discard all
	// answers.
	d.servers.OnSwitch(func() { d.cache.ApplyHint(nil) })
	d.feed, err = feed.Start(feed.Config{
		URL: c.URL, HintsURL: c.FeedURL, NoHints: c.NoHints, Version: c.Version, Policies: c.Policies,
	}, d.cache, d.servers, sidecars, log)
	return d, err
}

// Lookup implements [authz.Directory].
func (d *Directory) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	if d.cache != nil {
		return d.cache.Lookup(ctx, l)
	}
	a, err := d.lookups.Load(ctx, l)
	if err != nil {
		return authz.LookupResult{}, err
	}
	return a.Result, nil
}

// CountUse records that a token was used, and counts the request as allowed or denied. For an app's access token, it records the use
// of the grant. For a session, it does nothing. The directory writes the uses to the database later.
func (d *Directory) CountUse(p *authz.Principal, allowed bool) { d.usage.count(p, allowed) }

// Ready returns nil if a look-up of each kind succeeds. With a cache, the change log must also have been read at least once. If one
// of these conditions is not met, Ready returns the cause.
func (d *Directory) Ready(ctx context.Context) error {
	probes := []authz.Lookup{
		{Kind: authz.KindWorkspaceKey},
		{Kind: authz.KindSession},
		{Kind: authz.KindOAuthToken},
	}
	// The probes look up credentials that do not exist. They run one after the other, because concurrent probes would make each
	// sidecar keep three connections open.
	for _, l := range probes {
		if _, err := d.lookups.Load(ctx, l); err != nil {
			return err
		}
	}
	if d.feed != nil {
		return d.feed.Ready()
	}
	return nil
}

// Warnings returns problems that an operator should solve, although the sidecar can answer checks.
func (d *Directory) Warnings() []string {
	if d.feed == nil {
		return nil
	}
	return d.feed.Warnings()
}

// CacheStats returns the cache's statistics for metrics. Without a cache, all numbers are zero.
func (d *Directory) CacheStats() cache.Stats {
	if d.cache == nil {
		return cache.Stats{}
	}
	return d.cache.Stats()
}

// ChangeCounts returns how many changes were read from the change log, and how many notifications were received. Without a cache,
// both numbers are 0. ChangeCounts is faster than CacheStats, so it may be called often.
func (d *Directory) ChangeCounts() (changes, hints uint64) {
	if d.cache == nil {
		return 0, 0
	}
	return d.cache.ChangeCounts()
}

// Close writes the pending usage and closes the connections. Call Close only after all look-ups have ended: a look-up that still
// runs may fail, or its usage may not be written. If Close cannot write the usage, because the context ended or the write failed,
// it returns an error.
func (d *Directory) Close(ctx context.Context) error {
	var errs []error
	if d.feed != nil {
		d.feed.Close()
	}
	if d.stopWatching != nil {
		d.stopWatching()
	}
	if d.usage != nil {
		errs = append(errs, d.usage.close(ctx))
	}
	if d.cache != nil {
		d.cache.Close()
	}
	if d.lookups != nil {
		errs = append(errs, d.lookups.db.Close())
	}
	if d.servers != nil {
		errs = append(errs, d.servers.Close())
	}
	return errors.Join(errs...)
}
