package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
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
	listener *pq.Listener
	cache    *cache.Cache
	read     chan struct{} // the log is to be read now
	sidecars *atomic.Int64 // that are alive
	log      *slog.Logger
	failing  atomic.Bool
	closed   chan struct{}
	closing  sync.Once
}

func startHints(c Config, target *cache.Cache, read chan struct{}, sidecars *atomic.Int64, log *slog.Logger) (*hints, error) {
	listenURL, err := feedURL(cmp.Or(c.FeedURL, c.URL))
	if err != nil {
		return nil, fmt.Errorf("database.feed_url: %w", err)
	}
	const dialing = 5 * time.Second
	h := &hints{cache: target, read: read, sidecars: sidecars, log: log, closed: make(chan struct{})}
	h.listener = pq.NewDialListener(dialer{dial: dialing}, listenURL, minReconnect, time.Minute, func(event pq.ListenerEventType, err error) {
		if event == pq.ListenerEventReconnected || err != nil {
			h.tell(err)
		}
	})
	go h.run()
	return h, nil
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

// feedURL says the same as open's configuration, which a listener does not take.
func feedURL(databaseURL string) (string, error) {
	s, err := parse(databaseURL)
	return s.dsn, err
}

func (h *hints) close() {
	h.closing.Do(func() {
		close(h.closed)
		go func() {
			_ = h.listener.Close() // may wait for a server that does not answer
			for range h.listener.Notify {
				// The listener's own goroutine ends only when it is rid of what it has heard.
			}
		}()
	})
}
