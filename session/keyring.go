package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywicket/keywicket/authz"
)

const (
	fetchTimeout = 2 * time.Second
	maxKeySet    = 256 << 10 // bytes
	minRSA       = 2048      // bits (RFC 7518, section 3.3)

	// unknownKeyInterval is the minimum time between two fetches that unknown key ids cause. Without this minimum, a client could
	// cause any number of fetches with forged key ids.
	unknownKeyInterval = 30 * time.Second
	// unknownKeyWait is the default of [Config.KeyWait].
	unknownKeyWait = 200 * time.Millisecond
	// retryDelay is the time between a failed fetch and the next fetch. A quarter of the maximum age is used instead if it is
	// shorter.
	retryDelay = 5 * time.Second
	// startGrace is the time after the start for which a sidecar without keys is not ready. After this time, missing keys are
	// only a notice.
	startGrace = 30 * time.Second
)

// keyring fetches and caches the public keys of an issuer. It fetches the keys again when a quarter of their maximum age has
// passed, when a fetch has failed (see retryDelay), and when a token has an unknown key id.
type keyring struct {
	url     string
	maxAge  time.Duration
	wait    time.Duration // see [Config.KeyWait]
	client  *http.Client
	log     *slog.Logger
	started time.Time

	current atomic.Pointer[keySet]
	lastErr atomic.Pointer[error] // error of the latest fetch; nil: the fetch succeeded
	fetched atomic.Uint64
	failed  atomic.Uint64

	mu          sync.Mutex
	flight      *flight   // the running fetch, or nil
	lastUnknown time.Time // time of the latest fetch that an unknown key id caused

	retry  chan struct{} // receives a value when a fetch has failed: a periodic fetch, or a fetch for a token
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// flight is a fetch. done is closed when the fetch is complete.
type flight struct{ done chan struct{} }

func startKeyring(url string, maxAge, wait time.Duration, log *slog.Logger) *keyring {
	k := &keyring{
		url: url, maxAge: maxAge, wait: wait, log: log, started: time.Now(), retry: make(chan struct{}, 1),
		client: &http.Client{
			Timeout: fetchTimeout,
			// Redirects are not followed, because keys must come only from the configured URL.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.done.Go(k.refresh)
	return k
}

func (k *keyring) close() {
	if k == nil {
		return
	}
	k.mu.Lock() // the method begin checks ctx while it holds this lock, so no fetch starts after cancel
	k.cancel()
	k.mu.Unlock()
	k.done.Wait()
}

// refresh fetches the keys in the background until the keyring is closed.
func (k *keyring) refresh() {
	for {
		<-k.fetch().done
		select {
		case <-k.ctx.Done():
			return
		case <-time.After(k.maxAge / 4):
		case <-k.retry:
			select {
			case <-k.ctx.Done():
				return
			case <-time.After(min(k.maxAge/4, retryDelay)):
			}
		}
	}
}

// fetch returns the running fetch. If none is running, it starts a fetch.
func (k *keyring) fetch() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.begin()
}

// begin returns the running fetch. If none is running, it starts a fetch. The caller must hold mu.
func (k *keyring) begin() *flight {
	if k.flight != nil {
		return k.flight
	}
	f := &flight{done: make(chan struct{})}
	if k.ctx.Err() != nil { // the keyring is closed
		close(f.done)
		return f
	}
	k.flight = f
	k.done.Go(func() { k.runFetch(f) })
	return f
}

func (k *keyring) runFetch(f *flight) {
	startedAt := time.Now()
	set, err := k.load()
	switch {
	case err == nil:
		k.fetched.Add(1)
		if k.lastErr.Swap(nil) != nil {
			k.log.Info("the issuer's public keys were fetched again after a failure")
		}
		previous := k.current.Load()
		set.fetchedAt = startedAt
		set.keepPointers(previous)
		if len(set.ambiguous) > 0 && (previous == nil || !slices.Equal(previous.ambiguous, set.ambiguous)) {
			k.log.Warn("some of the issuer's public keys were ignored: different keys have the same kid and the same algorithm", "kids", set.ambiguous[:min(len(set.ambiguous), 10)], "count", len(set.ambiguous))
		}
		k.current.Store(set)
	case k.ctx.Err() == nil:
		k.failed.Add(1)
		if k.lastErr.Swap(&err) == nil {
			k.log.Warn("the issuer's public keys could not be fetched", "error", err)
		}
		select {
		case k.retry <- struct{}{}:
		default:
		}
	}
	k.mu.Lock()
	k.flight = nil
	k.mu.Unlock()
	close(f.done)
}

// load fetches the keys from the issuer.
func (k *keyring) load() (*keySet, error) {
	request, err := http.NewRequestWithContext(k.ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, errors.New("the JWKS URL is invalid")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := k.client.Do(request)
	if err != nil {
		return nil, fetchError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the response has the status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return nil, fetchError(err)
	}
	if len(body) > maxKeySet {
		return nil, fmt.Errorf("the response is longer than %d bytes", maxKeySet)
	}
	return parseKeys(body)
}

// fetchError returns the reason why a fetch got no valid response. The text does not contain the URL, because the URL may contain
// an API key of the issuer. It also contains no bytes of an invalid response.
func fetchError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && !op.Timeout() {
		return op
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%.200w", e)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return fmt.Errorf("no answer within %v", fetchTimeout)
	}
	return errors.New("the response is not valid HTTP")
}

// find returns the key with the name. If it returns an error, the result is unknown, because the keys are too old, the latest
// fetch has failed, or the fetch is not complete.
func (k *keyring) find(ctx context.Context, name keyName) (key, authz.Reason, error) {
	set := k.current.Load()
	if public := set.find(name); public != nil {
		return key{name, public}, "", k.tooOld(set)
	}
	wait := time.NewTimer(k.wait)
	defer wait.Stop()
	for range 2 { // twice, because the first fetch may have started before the issuer published the key
		f := k.fetchUnknown()
		if f == nil {
			break
		}
		select {
		case <-f.done:
		case <-wait.C:
			return key{}, "", errors.New("the issuer has not yet answered with its public keys")
		case <-ctx.Done():
			return key{}, "", ctx.Err()
		}
		set = k.current.Load()
		if public := set.find(name); public != nil {
			return key{name, public}, "", k.tooOld(set)
		}
	}
	if err := k.lastErr.Load(); err != nil {
		return key{}, "", fmt.Errorf("the issuer's public keys could not be fetched: %w", *err)
	}
	return key{}, authz.ReasonUnknown, k.tooOld(set)
}

// fetchUnknown joins the running fetch, or starts a fetch. It returns nil if no fetch is running, and an unknown key id caused a
// fetch less than unknownKeyInterval ago.
func (k *keyring) fetchUnknown() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flight != nil {
		return k.flight
	}
	if !k.lastUnknown.IsZero() && time.Since(k.lastUnknown) < unknownKeyInterval {
		return nil
	}
	k.lastUnknown = time.Now()
	return k.begin()
}

// trusts reports whether the issuer's current set contains the key, and this set is not too old.
func (k *keyring) trusts(trusted key) bool {
	set := k.current.Load()
	return k.tooOld(set) == nil && set.keys[trusted.name] == trusted.public
}

// tooOld returns an error if there is no set, or if the set is older than the maximum age.
func (k *keyring) tooOld(set *keySet) error {
	switch {
	case set == nil:
		return fmt.Errorf("the issuer's public keys were never fetched: %w", k.reason())
	case time.Since(set.fetchedAt) >= k.maxAge:
		return fmt.Errorf("the issuer's public keys are too old: %w", k.reason())
	}
	return nil
}

// reason returns why there is no newer key set.
func (k *keyring) reason() error {
	if err := k.lastErr.Load(); err != nil {
		return *err
	}
	return errors.New("the issuer has not yet answered")
}

// ready reports whether the keys were fetched at least once, or startGrace has passed. problem describes keys that are missing,
// old, ignored or unusable; it is nil if there is no problem.
func (k *keyring) ready() (ready bool, problem error) {
	if k == nil {
		return true, nil
	}
	set := k.current.Load()
	switch {
	case k.tooOld(set) != nil:
		return set != nil || time.Since(k.started) >= startGrace, k.tooOld(set)
	case k.lastErr.Load() != nil:
		return true, fmt.Errorf("the issuer's public keys are %v old, and could not be fetched again: %w", time.Since(set.fetchedAt).Round(time.Second), k.reason())
	case len(set.ambiguous) > 0:
		return true, fmt.Errorf("some of the issuer's public keys were ignored: different keys have the same kid and the same algorithm: %.200s", fmt.Sprintf("%q", set.ambiguous))
	case len(set.keys) == 0:
		return true, errors.New("the issuer publishes no public key that is usable for sessions")
	}
	return true, nil
}

func (k *keyring) stats(s *Stats) {
	if k == nil {
		return
	}
	s.HasPublicKeys, s.Fetched, s.FetchFailed = true, k.fetched.Load(), k.failed.Load()
	if set := k.current.Load(); set != nil {
		s.KeysAge, s.Keys = time.Since(set.fetchedAt), len(set.keys)
	}
}
