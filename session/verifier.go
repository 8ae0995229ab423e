package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Config is the configuration of a Verifier.
type Config struct {
	// APIs are the APIs by name. An API without an issuer accepts no sessions.
	APIs map[string]authz.API
	// MaxBytes limits the memory of all cached verifications. 0: no verification is cached.
	MaxBytes int64
	// Clock is the wall clock for the time claims of tokens. Default: time.Now.
	Clock func() time.Time
	// KeyWait is the maximum time for which Verify waits for the issuer's public keys, if it has no key with the token's key id.
	// Default: 200 ms, which is shorter than Envoy's timeout for a check.
	KeyWait time.Duration
}

// Verifier verifies session tokens. The sidecar uses it as its [authz.Sessions]. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]*issuerVerifier
	memory  *memory
}

var _ authz.Sessions = (*Verifier)(nil)

// New returns a verifier that fetches keys in the background. New does not wait for the keys: [Verifier.Ready] reports whether
// the verifier has fetched them. The caller must call Close.
func New(c Config, log *slog.Logger) (*Verifier, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.KeyWait = cmp.Or(c.KeyWait, unknownKeyWait)
	v := &Verifier{issuers: make(map[string]*issuerVerifier)}
	for name, api := range c.APIs {
		format, err := api.Session.Complete()
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("apis.%s.session.%w", name, err)
		}
		if format.Issuer != "" {
			v.issuers[name] = newIssuerVerifier(format, c, log.With("api", name))
		}
	}
	if len(v.issuers) > 0 && c.MaxBytes > 0 {
		var err error
		if v.memory, err = newMemory(c.MaxBytes); err != nil {
			v.Close()
			return nil, err
		}
	}
	return v, nil
}

// Close stops the fetches of keys. Call Close after all calls of Verify have ended. A call of Verify during or after Close can
// fail, but does not panic.
func (v *Verifier) Close() {
	for _, i := range v.issuers {
		i.keys.close()
	}
	if v.memory != nil {
		v.memory.close()
	}
}

// Verify implements [authz.Sessions]. If the token is cached and its key is still trusted, Verify checks only the token's expiry.
func (v *Verifier) Verify(ctx context.Context, api string, token authz.Secret) (authz.VerifiedSession, error) {
	i, ok := v.issuers[api]
	if !ok {
		return authz.VerifiedSession{Denial: authz.ReasonUnknown}, nil
	}
	digest := token.Digest()
	if cached := v.memory.get(i, digest); cached != nil && i.trusts(cached.key) {
		i.counts.cached.Add(1)
		if i.expired(cached.expires) {
			return authz.VerifiedSession{Denial: authz.ReasonExpired}, nil
		}
		return authz.VerifiedSession{Session: cached.session, AAL: cached.aal, Expires: cached.expires}, nil
	}
	verified, denial, err := i.verify(ctx, token.Reveal())
	switch {
	case err != nil:
		i.counts.failed.Add(1)
		return authz.VerifiedSession{}, err
	case denial.reason != "":
		i.counts.denied.Add(1)
		return authz.VerifiedSession{Denial: denial.reason, Detail: denial.detail}, nil
	}
	i.counts.verified.Add(1)
	verified.digest = digest
	v.memory.set(verified)
	return authz.VerifiedSession{Session: verified.session, AAL: verified.aal, Expires: verified.expires}, nil
}

// Ready returns an error until the keys of every issuer have been fetched once. Half a minute after the start, Ready returns only
// a notice for an issuer that has not answered. A notice reports a problem that affects only sessions, so it does not make the
// sidecar unready.
func (v *Verifier) Ready() (notices []string, err error) {
	for _, api := range slices.Sorted(maps.Keys(v.issuers)) {
		ready, problem := v.issuers[api].keys.ready()
		switch {
		case !ready:
			err = errors.Join(err, fmt.Errorf("apis.%s.session: %w", api, problem))
		case problem != nil:
			notices = append(notices, fmt.Sprintf("apis.%s.session: %v", api, problem))
		}
	}
	return notices, err
}

// counts contains the numbers of results for one issuer. [Stats] contains the same numbers.
type counts struct{ cached, verified, denied, failed atomic.Uint64 }

// Stats are the statistics of one API, for its metrics.
type Stats struct {
	// These fields count the results of Verify. Cached counts results from the cache. Verified counts tokens that passed a
	// verification. Denied counts refused tokens. Failed counts errors.
	Cached, Verified, Denied, Failed uint64
	// HasPublicKeys reports whether the verifier fetches public keys for the API. The following fields describe these keys.
	HasPublicKeys bool
	// KeysAge is the time since the fetch of the keys in use. It is 0 if the keys were never fetched.
	KeysAge time.Duration
	// Keys is the number of keys in use.
	Keys int
	// Fetched and FetchFailed count the successful and the failed fetches of keys.
	Fetched, FetchFailed uint64
}

// Stats returns the verifier's statistics by API.
func (v *Verifier) Stats() map[string]Stats {
	all := make(map[string]Stats, len(v.issuers))
	for api, i := range v.issuers {
		s := Stats{
			Cached: i.counts.cached.Load(), Verified: i.counts.verified.Load(),
			Denied: i.counts.denied.Load(), Failed: i.counts.failed.Load(),
		}
		i.keys.stats(&s)
		all[api] = s
	}
	return all
}
