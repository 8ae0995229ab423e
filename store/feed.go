package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/cache"
)

const (
	// changesChannel is where the triggers tell (migration 00006).
	changesChannel = "keywicket_changes"
	// allChanged is the notice that speaks of everything.
	allChanged = "*"

	// changesAreTold is true if every table that a look-up depends on has its four triggers (migration 00006), and they fire.
	changesAreTold = `NOT EXISTS (
		SELECT FROM unnest(ARRAY['tokens', 'workspaces', 'users', 'members', 'revoked_sessions',
			'oauth_access_tokens', 'oauth_grants', 'oauth_grant_workspaces', 'oauth_apps']) AS name
		WHERE 4 <> (SELECT count(*) FROM pg_catalog.pg_trigger
			WHERE tgrelid = to_regclass('keywicket.' || name) AND tgenabled = 'A'
			  AND tgname IN ('tell_insert', 'tell_update', 'tell_delete', 'tell_truncate')))`

	// A feed that was lost is looked for at once, and then ever more slowly, but never more slowly than this.
	minReconnect = 50 * time.Millisecond
	maxReconnect = 2 * time.Second
)

// feed listens to the changes in the database and tells the cache. A nonce that it sends over a connection of its own
// says, when it is heard, that everything before it has been heard too.
type feed struct {
	cache    *cache.Cache
	log      *slog.Logger
	db       *sqlx.DB // sends the nonces
	listener *pq.Listener
	bound    time.Duration
	channel  string // this process's own, for its nonces: other sidecars have no use for them
	trouble  atomic.Pointer[error]
	wake     chan struct{} // a nonce is to be sent at once

	cancel  context.CancelFunc
	running sync.WaitGroup
}

func startFeed(c Config, target *cache.Cache, log *slog.Logger) (*feed, error) {
	bound := target.StalenessBound()
	// A connection to a server that is gone must not hold up the next one.
	limit := max(bound, time.Second)
	db, err := open(c.URL, limit)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetConnMaxLifetime(connectionLifetime)
	listenURL, err := feedURL(cmp.Or(c.FeedURL, c.URL))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database.feed_url: %w", err), db.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{
		cache: target, log: log, db: db, bound: bound, cancel: cancel,
		channel: "keywicket_" + strings.ToLower(rand.Text()), wake: make(chan struct{}, 1),
	}
	// The nonces are what is read: a connection that is silent for several leases is dead, whatever TCP thinks. No sooner,
	// since a new one costs all that is remembered, and it may be the sending that is slow.
	f.listener = pq.NewDialListener(dialer{5 * limit}, listenURL, minReconnect, maxReconnect, f.event)
	f.running.Go(func() { f.listen(ctx) })
	f.running.Go(func() { f.beat(ctx) })
	return f, nil
}

// feedURL says in the URL what open says in a configuration, which a listener does not take.
func feedURL(databaseURL string) (string, error) {
	config, err := parse(databaseURL)
	if err != nil {
		return "", err
	}
	if u, err := url.Parse(databaseURL); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		query := u.Query()
		query.Set("application_name", cmp.Or(config.ApplicationName, applicationName))
		query.Set("target_session_attrs", string(config.TargetSessionAttrs))
		u.RawQuery = query.Encode()
		return u.String(), nil
	}
	// In front: the last of two counts, and what is behind may end in an empty value.
	return fmt.Sprintf("application_name=%s target_session_attrs=%s %s", applicationName, config.TargetSessionAttrs, databaseURL), nil
}

// event is called by the listener's own goroutine.
func (f *feed) event(event pq.ListenerEventType, err error) {
	switch event {
	case pq.ListenerEventDisconnected, pq.ListenerEventConnectionAttemptFailed:
		err = cmp.Or(err, errors.New("the connection has ended"))
		if event == pq.ListenerEventDisconnected {
			f.log.Warn("the feed of changes is lost, and with it all that was remembered", "error", err)
		}
		f.cache.Disconnected()
		f.fail(err)
	}
}

// listen tells the cache what is heard.
func (f *feed) listen(ctx context.Context) {
	defer f.cache.Disconnected()
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		f.subscribe(ctx)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-listening:
			listening = nil
			f.connected(cache.CauseStart)
		case n := <-f.listener.Notify:
			switch {
			case n == nil: // a new connection, which listens again
				f.connected(cache.CauseReconnect)
			case n.Channel == f.channel:
				f.cache.Heard(n.Extra)
				f.trouble.Store(nil)
			case n.Extra == allChanged:
				f.cache.ChangedAll()
			default:
				keys, err := cache.ParseKeys(n.Extra)
				if err != nil { // the notice of another version, perhaps
					f.log.Warn("changes", "error", err)
					f.cache.ChangedAll()
					continue
				}
				f.cache.Changed(keys)
			}
		}
	}
}

func (f *feed) connected(cause cache.Cause) {
	f.trouble.Store(nil)
	f.cache.Connected(cause)
	select {
	case f.wake <- struct{}{}:
	default: // it is about to be sent already
	}
}

// subscribe returns when both channels are listened to, on this connection and on all that follow.
func (f *feed) subscribe(ctx context.Context) {
	for _, channel := range []string{changesChannel, f.channel} {
		for {
			err := f.listener.Listen(channel) // waits for a connection
			if err == nil || errors.Is(err, pq.ErrChannelAlreadyOpen) || ctx.Err() != nil {
				break
			}
			f.fail(err)
			select {
			case <-ctx.Done():
			case <-time.After(maxReconnect):
			}
		}
	}
}

// beat sends nonces, four to a lease, so that three may be late.
func (f *feed) beat(ctx context.Context) {
	tick := time.NewTicker(f.bound / 4)
	defer tick.Stop()
	believed, mute := false, false
	grace := time.After(2 * f.bound)
	for {
		mute = f.pulse(ctx, mute)
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-grace:
			if ever, _ := f.cache.Heart(); !ever {
				believed = true // for this once, so that it is told below
			}
		case <-tick.C:
		}
		if _, now := f.cache.Heart(); now != believed {
			believed = now
			if now {
				f.log.Info("changes are heard: the cache is in use")
			} else {
				f.log.Warn("changes are not heard: every look-up asks the database", "error", f.reason())
			}
		}
	}
}

// pulse sends a nonce, unless the database is mute: it does not tell of changes, because it is not yet migrated, or
// because somebody has disabled a trigger. The feed would be heard then, and mean nothing.
func (f *feed) pulse(ctx context.Context, mute bool) (muteNow bool) {
	query := `SELECT pg_notify($1, $2) WHERE ` + changesAreTold
	if mute { // nothing may be heard before what was not told is forgotten
		query = `SELECT $1::text, $2::text WHERE ` + changesAreTold
	}
	nonce := f.cache.Nonce()
	rows, err := within(ctx, f.bound, func(ctx context.Context) (int64, error) {
		result, err := f.db.ExecContext(ctx, query, f.channel, nonce)
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	})
	switch {
	case err != nil:
		if ctx.Err() == nil {
			f.fail(fmt.Errorf("ask the database: %w", err))
		}
		return mute
	case rows == 0:
		f.fail(errors.New("the database does not tell of them: `keywicket migrate up` makes the triggers; where " +
			"somebody has disabled one, ALTER TABLE keywicket.… ENABLE ALWAYS TRIGGER tell_…"))
		return true
	case mute:
		f.cache.ChangedAll()
	}
	return false
}

func (f *feed) fail(err error) { f.trouble.Store(&err) }

func (f *feed) reason() error {
	if err := f.trouble.Load(); err != nil {
		return *err
	}
	return errors.New("nothing comes back that is sent: LISTEN works on a primary alone, and through no pooler of transactions; " +
		"database.feed_url leads around one")
}

// ready is false until the feed was heard for the first time. Later, look-ups do without the cache.
func (f *feed) ready() error {
	if ever, _ := f.cache.Heart(); ever {
		return nil
	}
	return fmt.Errorf("changes in the database are not heard: %w", f.reason())
}

func (f *feed) close() {
	f.cancel()
	go func() {
		_ = f.listener.Close() // may wait for a server that does not answer
		for range f.listener.Notify {
			// The listener's own goroutine ends only when it is rid of what it has heard.
		}
	}()
	f.running.Wait()
	_ = f.db.Close()
}
