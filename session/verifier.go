package session

import (
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
}

// Verifier verifies session tokens; it is the [authz.Sessions] of the sidecar. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]*issuer
	memory  *memory
}

var _ authz.Sessions = (*Verifier)(nil)

// New starts a verifier, which fetches keys in the background. New does not wait for the keys: [Verifier.Ready] reports whether the
// keys were fetched. The caller must Close the verifier.
func New(c Config, log *slog.Logger) (*Verifier, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	v := &Verifier{issuers: make(map[string]*issuer)}
	for name, api := range c.APIs {
		format, err := api.Session.Complete()
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("apis.%s.session.%w", name, err)
		}
		if format.Issuer != "" {
			v.issuers[name] = newIssuer(format, c.Clock, log.With("api", name))
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

// Close stops the fetches of keys. Callers should wait for all calls of Verify before they call Close. A call during or after Close
// can fail, but does not panic.
func (v *Verifier) Close() {
	for _, i := range v.issuers {
		i.keys.close()
	}
	if v.memory != nil {
		v.memory.close()
	}
}

// Verify implements [authz.Sessions]. While the key of a cached token is trusted, Verify checks only the token's expiry again.
func (v *Verifier) Verify(ctx context.Context, api string, token authz.Secret) (authz.VerifiedSession, error) {
	i, ok := v.issuers[api]
	if !ok {
		return authz.VerifiedSession{Denial: authz.ReasonUnknown}, nil
	}
	digest := token.Digest()
	if cached := v.memory.get(i, digest); cached != nil && i.trusts(cached.key) {
		i.counts.remembered.Add(1)
		if i.expired(cached.expires) {
			return authz.VerifiedSession{Denial: authz.ReasonExpired}, nil
		}
		return authz.VerifiedSession{Session: cached.session, AAL: cached.aal}, nil
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
	return authz.VerifiedSession{Session: verified.session, AAL: verified.aal}, nil
}

// Ready returns an error until the keys of every issuer have been fetched once. Half a minute after the start, an issuer that
// does not answer causes only a notice. Notices report problems that affect only sessions, so a notice does not make the
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

// counts contains the numbers of an issuer's results, for [Stats].
type counts struct{ remembered, verified, denied, failed atomic.Uint64 }

// Stats are the statistics of one API, for its metrics.
type Stats struct {
	// These fields count the results of Verify. Cached: results from the cache. Verified: tokens that passed a verification.
	// Denied: refused tokens. Failed: errors.
	Cached, Verified, Denied, Failed uint64
	// HasPublicKeys reports whether the API has public keys to fetch. The following fields describe these keys.
	HasPublicKeys bool
	// KeysAge is the time since the keys in use were fetched; 0: never fetched.
	KeysAge time.Duration
	// Keys is the number of keys in use.
	Keys int
	// Fetched and FetchFailed count the fetches.
	Fetched, FetchFailed uint64
}

// Stats returns the verifier's statistics by API.
func (v *Verifier) Stats() map[string]Stats {
	all := make(map[string]Stats, len(v.issuers))
	for api, i := range v.issuers {
		s := Stats{
			Cached: i.counts.remembered.Load(), Verified: i.counts.verified.Load(),
			Denied: i.counts.denied.Load(), Failed: i.counts.failed.Load(),
		}
		i.keys.stats(&s)
		all[api] = s
	}
	return all
}
