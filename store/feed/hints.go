package feed

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
	"github.com/keywicket/keywicket/store/changelog"
	"github.com/keywicket/keywicket/store/database"
)

// hints listens for change notifications, which arrive within milliseconds. It invalidates the cache entries that depend on the
// keys in a notification. Correctness does not depend on notifications, because each change is also in the log. If a notification
// is lost, the change takes effect at the next regular reading of the log.
type hints struct {
	settings database.Settings
	ownURL   bool         // the URL is Config.HintsURL, so assume that there is no pooler
	listener *pq.Listener // nil before start
	starting sync.Once
	pooled   sync.Once // ensures that the message about a pooler is logged only once
	cache    *cache.Cache
	readNow  chan struct{} // a signal: read the log now
	sidecars *atomic.Int64 // number of live sidecars
	log      *slog.Logger
	failing  atomic.Bool
	closed   chan struct{}
	closing  sync.Once
}

func newHints(c Config, target *cache.Cache, readNow chan struct{}, sidecars *atomic.Int64, log *slog.Logger) (*hints, error) {
	s, err := database.Parse(cmp.Or(c.HintsURL, c.URL))
	if err != nil {
		return nil, fmt.Errorf("database.feed_url: %w", err)
	}
	return &hints{
		cache: target, settings: s, ownURL: c.HintsURL != "", readNow: readNow, sidecars: sidecars, log: log, closed: make(chan struct{}),
	}, nil
}

// start starts listening. The feed calls start for each new connection on which it reads the log. The parameter `direct` is false
// if this connection may go through a pooler. In this case, start does not listen. A pooler forwards no notifications. Also, after
// LISTEN, the pooler would give the listening server connection to other clients.
func (h *hints) start(direct bool) {
	if !direct && !h.ownURL {
		h.pooled.Do(func() {
			h.log.Info("connections to the database may go through a pooler: queries are not prepared, and changes are read from the log " +
				"only at regular intervals. Set database.feed_url to a direct connection for notifications, or database.pooler to none if there is no pooler")
		})
		return
	}
	h.starting.Do(func() {
		d := &listenDialer{net.Dialer{Timeout: database.ConnectLimit, KeepAlive: -1, KeepAliveConfig: h.settings.KeepAlive}}
		h.listener = pq.NewDialListener(d, h.settings.DSN, minReconnect, time.Minute,
			func(event pq.ListenerEventType, err error) {
				if event == pq.ListenerEventReconnected || err != nil {
					h.logState(err)
				}
			})
		go h.run()
	})
}

// listenDialer opens connections without a read deadline, because any time may pass between two notifications.
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
		wakeUps = 20_000           // maximum number of wake-ups per second, for all sidecars together
		quiet   = 30 * time.Second // if there are more wake-ups, the listener pauses for this time
	)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	received := 0
	var resume <-chan time.Time
	for {
		select {
		case <-h.closed:
			return
		case n := <-h.listener.Notify:
			if received++; n != nil { // n is nil if the listener has a new connection
				h.handle(n.Extra)
			}
		case <-second.C:
			// Postgres wakes every listener for every notification. Many wake-ups cost too much CPU time, so stop listening for a
			// while. The sidecar still reads the log.
			if int64(received)*h.sidecars.Load() > wakeUps && resume == nil {
				go func() { _ = h.listener.Unlisten(changelog.Channel) }() // Unlisten blocks until the method run has received the earlier notifications
				resume = time.After(quiet)
			}
			received = 0
		case <-resume:
			resume = nil
			go h.listen()
		}
	}
}

// listen runs LISTEN until LISTEN succeeds. After each later reconnection, lib/pq's listener repeats LISTEN.
func (h *hints) listen() {
	for {
		err := h.listener.Listen(changelog.Channel)
		if err == nil || errors.Is(err, pq.ErrChannelAlreadyOpen) {
			h.logState(nil)
			return
		}
		select {
		case <-h.closed:
			return
		default:
			h.logState(err)
		}
		select {
		case <-h.closed:
			return
		case <-time.After(maxReconnect):
		}
	}
}

// logState logs one message when notifications stop arriving, and one message when they arrive again.
func (h *hints) logState(err error) {
	switch {
	case err != nil && h.failing.CompareAndSwap(false, true):
		h.log.Warn("notifications of changes are not received: the change log is read only at regular intervals; see database.feed_url", "error", err)
	case err == nil && h.failing.CompareAndSwap(true, false):
		h.log.Info("notifications of changes are received again")
	}
}

func (h *hints) handle(notification string) {
	if notification == changelog.Acknowledge {
		signal(h.readNow)
		return
	}
	keys, err := cache.ParseKeys(notification)
	if err != nil { // the text is "*", or has the format of another version: any answer may have changed
		keys = nil
	}
	h.cache.ApplyHint(keys)
}

func (h *hints) close() {
	h.closing.Do(func() {
		close(h.closed)
		h.starting.Do(func() {}) // from now on, start does nothing
		if h.listener == nil {
			return
		}
		go func() {
			_ = h.listener.Close() // Close may block while the server does not answer
			for range h.listener.Notify {
				// The listener's goroutine ends only after its notifications are received.
			}
		}()
	})
}
