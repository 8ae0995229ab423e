package store

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
)

// Config says how a Directory reaches its database. Only URL is required.
type Config struct {
	// URL as in [Open]. The login needs no more than the role keywicket_sidecar.
	URL string
	// MaxOpenConnections for look-ups, and for what is written. Two further ones read the log of changes and listen for hints,
	// and a third one is made from time to time. Default: 8.
	MaxOpenConnections int
	// LookupTimeout bounds a look-up as a whole: the wait for a connection, connecting, retries, the query. It should
	// stay below half of what the caller is given, so that a client of the caller gets an answer. Default: 200ms.
	LookupTimeout time.Duration
	// Pooler says whether a pooler of connections stands in front of the database at URL. Default: PoolerAuto.
	Pooler Pooler
	// FeedURL is where hints of changes are listened to, if not at URL: a way around a pooler of connections, which must not
	// stand between a listener and its database. Default: URL.
	FeedURL string
	// NoHints reads the log of changes at its turn only. It saves a connection, and Postgres the wake-up of each sidecar at
	// each change.
	NoHints bool
	// Cache is in front of the look-ups.
	Cache cache.Config
	// NoCache asks the database for every look-up.
	NoCache bool
	// UsageInterval is how often last_used_at is written. Default: 5s.
	UsageInterval time.Duration
	// Version of this program, and a hash of its policies, for the list of sidecars.
	Version, Policies string
	// Clock measures how long ago a token was used, and nothing else: expiry is the database's to judge. Default:
	// time.Now.
	Clock func() time.Time
}

const (
	defaultMaxOpenConnections = 8
	defaultLookupTimeout      = 200 * time.Millisecond
	defaultUsageInterval      = 5 * time.Second

	// connectionLifetime lets a sidecar follow a failover or a changed address even if nobody closes its connections.
	connectionLifetime = 5 * time.Minute
	// connectionIdle is for how long a connection is kept that a burst of look-ups has needed. The last one is kept: it is used
	// at each upkeepPause, and many sidecars would make many connections.
	connectionIdle = 2 * upkeepPause
)

func (c Config) complete() (Config, error) {
	if c.MaxOpenConnections == 0 {
		c.MaxOpenConnections = defaultMaxOpenConnections
	}
	if c.LookupTimeout == 0 {
		c.LookupTimeout = defaultLookupTimeout
	}
	if c.Pooler == "" {
		c.Pooler = PoolerAuto
	}
	if c.UsageInterval == 0 {
		c.UsageInterval = defaultUsageInterval
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	switch {
	case !slices.Contains(Poolers(), c.Pooler):
		return c, fmt.Errorf("pooler: %q is none of %v", c.Pooler, Poolers())
	case c.MaxOpenConnections < 0:
		return c, fmt.Errorf("max_open_connections: %d is not positive", c.MaxOpenConnections)
	case c.LookupTimeout < 0:
		return c, fmt.Errorf("lookup_timeout: %v is not positive", c.LookupTimeout)
	case c.UsageInterval < 0:
		return c, fmt.Errorf("usage_interval: %v is not positive", c.UsageInterval)
	}
	return c, nil
}

// Directory answers checks from Postgres, by way of a cache, and notes which tokens are used. It is safe for concurrent
// use.
type Directory struct {
	lookups *lookups
	servers *servers
	cache   *cache.Cache // nil: none
	feed    *feed
	usage   *usage

	stopWatching context.CancelFunc // nil: the feed sees which server there is
}

var _ authz.Directory = (*Directory)(nil)

// OpenDirectory starts a directory. Whether the database can be reached is not asked: look-ups fail until it can be,
// and work from then on. [Directory.Ready] tells. A nil logger drops everything. The caller must Close the directory.
func OpenDirectory(c Config, log *slog.Logger) (_ *Directory, err error) {
	c, err = c.complete()
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
	// A look-up that runs into its deadline has its query cancelled and its connection kept, for which the server gets
	// as long again.
	connections, err := newConnector(c.URL, c.Pooler, 2*c.LookupTimeout)
	if err != nil {
		return nil, err
	}
	sidecars := new(atomic.Int64) // that are alive, with this one
	shared := newDials(connections, lookupQueries, connectionLifetime, sidecars.Load)
	db := open(shared)
	db.SetMaxOpenConns(c.MaxOpenConnections)
	db.SetMaxIdleConns(c.MaxOpenConnections)
	db.SetConnMaxIdleTime(connectionIdle)
	fresh := connections
	fresh.limit = connectLimit
	d.servers = openServers(open(fresh), db, shared.drop, log)
	d.lookups = newLookups(db, d.servers, c)
	d.usage = startUsage(db, c, log)
	if c.NoCache {
		ctx, cancel := context.WithCancel(context.Background())
		d.stopWatching = cancel
		go d.servers.watch(ctx)
		return d, nil
	}
	c.Cache.LoadTimeout = c.LookupTimeout
	if d.cache, err = cache.New(c.Cache, d.lookups, log); err != nil {
		return nil, fmt.Errorf("cache.%w", err)
	}
	// What was remembered of the server before may be of another cluster.
	d.servers.switched = func() { d.cache.Hinted(nil) }
	d.feed, err = startFeed(c, d.cache, d.servers, sidecars, log)
	return d, err
}

// Lookup implements [authz.Directory].
func (d *Directory) Lookup(ctx context.Context, l authz.Lookup) (found authz.Found, err error) {
	if d.cache == nil {
		a, err := d.lookups.Load(ctx, l)
		if err != nil {
			return authz.Found{}, err
		}
		found = a.Found
	} else if found, err = d.cache.Lookup(ctx, l); err != nil {
		return authz.Found{}, err
	}
	if found.Denial == "" && l.Kind != authz.KindSession && l.Kind != authz.KindOAuthToken {
		d.usage.note(found.Principal.ID)
	}
	return found, nil
}

// Ready reports whether checks are answered as they should be: look-ups of each kind have just been answered, and the database
// has once been heard to tell of changes.
func (d *Directory) Ready(ctx context.Context) error {
	probes := []authz.Lookup{
		{Kind: authz.KindWorkspaceKey},
		{Kind: authz.KindSession},
		{Kind: authz.KindOAuthToken},
	}
	// One after the other: three at once would have each sidecar keep three connections, as often as it is asked.
	for _, l := range probes { // of nothing that there is
		if _, err := d.lookups.Load(ctx, l); err != nil {
			return err
		}
	}
	if d.feed != nil {
		return d.feed.ready()
	}
	return nil
}

// Notices are what is not as it should be while checks are answered nevertheless.
func (d *Directory) Notices() []string {
	if d.feed == nil {
		return nil
	}
	return d.feed.notices()
}

// CacheStats are for metrics; zero without a cache.
func (d *Directory) CacheStats() cache.Stats {
	if d.cache == nil {
		return cache.Stats{}
	}
	return d.cache.Stats()
}

// Heard is how many changes of the database the directory knows of, by the log and by notifications; 0 without a cache. Unlike
// CacheStats it may be asked for all the time.
func (d *Directory) Heard() (changes, hints uint64) {
	if d.cache == nil {
		return 0, 0
	}
	return d.cache.Heard()
}

// Close writes the usage that is still to be written, and closes the connections. Look-ups must have ended: one that
// has not fails, or its use is not noted. The error says that usage was lost, because the context ended or the database
// did not take it.
func (d *Directory) Close(ctx context.Context) error {
	var errs []error
	if d.feed != nil {
		d.feed.close()
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
		errs = append(errs, d.servers.close())
	}
	return errors.Join(errs...)
}
