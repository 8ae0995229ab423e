package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/cache"
)

// changesChannel is where the triggers notify (migration 00011).
const changesChannel = "keywicket_changes"

// hints listens for notifications of changes, which arrive within milliseconds. Each makes the cache forget what it names.
// Nothing else depends on them: the change is in the log too, and a hint that is lost costs the interval between two readings.
type hints struct {
	settings settings
	own      bool         // the URL is for hints alone: nobody's but the operator's to judge
	listener *pq.Listener // nil until started
	starting sync.Once
	pooled   sync.Once // has told of the pooler
	cache    *cache.Cache
	read     chan struct{} // the log is to be read now
	sidecars *atomic.Int64 // that are alive
	log      *slog.Logger
	failing  atomic.Bool
	closed   chan struct{}
	closing  sync.Once
}

func newHints(c Config, target *cache.Cache, read chan struct{}, sidecars *atomic.Int64, log *slog.Logger) (*hints, error) {
	s, err := parse(cmp.Or(c.FeedURL, c.URL))
	if err != nil {
		return nil, fmt.Errorf("database.feed_url: %w", err)
	}
	return &hints{
		cache: target, settings: s, own: c.FeedURL != "", read: read, sidecars: sidecars, log: log, closed: make(chan struct{}),
	}, nil
}

// start is called for each connection on which the log is read. If that is not a direct one, there may be a pooler between, where
// nothing is heard and the connection to Postgres that listens would be another client's next.
func (h *hints) start(direct bool) {
	if !direct && !h.own {
		h.pooled.Do(func() {
			h.log.Info("connections to the database may go through a pooler: queries are not prepared, and changes are read from the log " +
				"at its interval. database.feed_url names a direct way for notifications; database.pooler: none says that there is no pooler")
		})
		return
	}
	h.starting.Do(func() {
		d := &listenDialer{net.Dialer{Timeout: connectLimit, KeepAlive: -1, KeepAliveConfig: h.settings.keepAlive}}
		h.listener = pq.NewDialListener(d, h.settings.dsn, minReconnect, time.Minute,
			func(event pq.ListenerEventType, err error) {
				if event == pq.ListenerEventReconnected || err != nil {
					h.tell(err)
				}
			})
		go h.run()
	})
}

// listenDialer makes connections on which nothing may be said for any time.
type listenDialer struct{ net.Dialer }

// DialTimeout implements [pq.Dialer].
func (d *listenDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (h *hints) run() {
	go h.listen()
	const (
		wakeUps = 20_000 // a second, of all sidecars together
		quiet   = 30 * time.Second
	)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	heard := 0
	var resume <-chan time.Time
	for {
		select {
		case <-h.closed:
			return
		case n := <-h.listener.Notify:
			if heard++; n != nil { // nil: a new connection
				h.heard(n.Extra)
			}
		case <-second.C:
			// Postgres wakes every listener for every notification. So many changes are read soon enough without hints.
			if int64(heard)*h.sidecars.Load() > wakeUps && resume == nil {
				go func() { _ = h.listener.Unlisten(changesChannel) }() // waits until what was sent before is taken
				resume = time.After(quiet)
			}
			heard = 0
		case <-resume:
			resume = nil
			go h.listen()
		}
	}
}

// listen waits for a connection. The listener repeats it on all that follow.
func (h *hints) listen() {
	for {
		err := h.listener.Listen(changesChannel)
		if err == nil || errors.Is(err, pq.ErrChannelAlreadyOpen) {
			h.tell(nil)
			return
		}
		select {
		case <-h.closed:
			return
		default:
			h.tell(err)
		}
		select {
		case <-h.closed:
			return
		case <-time.After(maxReconnect):
		}
	}
}

// tell logs that hints are not heard, or are heard again; each once.
func (h *hints) tell(err error) {
	switch {
	case err != nil && h.failing.CompareAndSwap(false, true):
		h.log.Warn("notifications of changes are not heard: changes are read from the log, at their turn; see database.feed_url", "error", err)
	case err == nil && h.failing.CompareAndSwap(true, false):
		h.log.Info("notifications of changes are heard again")
	}
}

func (h *hints) heard(notification string) {
	if notification == acknowledge {
		offer(h.read)
		return
	}
	keys, err := cache.ParseKeys(notification)
	if err != nil { // "*", or what another version writes
		keys = nil
	}
	h.cache.Hinted(keys)
}

func (h *hints) close() {
	h.closing.Do(func() {
		close(h.closed)
		h.starting.Do(func() {}) // not any more
		if h.listener == nil {
			return
		}
		go func() {
			_ = h.listener.Close() // may wait for a server that does not answer
			for range h.listener.Notify {
				// The listener's own goroutine ends only when it is rid of what it has heard.
			}
		}()
	})
}
