package scanner

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fetchTimeout  = 5 * time.Second
	fetchInterval = time.Minute // minimum time between two fetches, also after a failure
	maxKeyList    = 256 << 10   // bytes
)

// keyring fetches and caches the scanner's public keys. A request fetches them again if a quarter of their maximum age has passed, or
// if the request has an unknown key id. In both cases, it fetches at most once a minute, so that requests with made-up key ids cause
// few fetches.
type keyring struct {
	url    string
	maxAge time.Duration
	now    func() time.Time
	client *http.Client

	current atomic.Pointer[keySet]

	mu        sync.Mutex // held during a fetch
	attempted time.Time  // time of the latest fetch
	lastErr   error      // error of the latest fetch
}

type keySet struct {
	fetchedAt time.Time
	keys      map[string]*ecdsa.PublicKey // by id
}

func newKeyring(c Config) *keyring {
	return &keyring{
		url: c.KeysURL, maxAge: c.KeysMaxAge, now: c.Now,
		client: &http.Client{
			Timeout: fetchTimeout,
			// Redirects are not followed, because keys must come only from the configured URL.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// find returns the key with the id. The error is [errUnsigned] if the scanner has no such key. Another error means that this is not
// known, because the keys are too old and cannot be fetched.
func (k *keyring) find(ctx context.Context, id string) (*ecdsa.PublicKey, error) {
	if key, due := k.known(id); key != nil && !due {
		return key, nil
	}
	k.mu.Lock() // fetch, unless another request has done it
	defer k.mu.Unlock()
	if key, due := k.known(id); key != nil && !due {
		return key, nil
	}
	if now := k.now(); k.attempted.IsZero() || now.Sub(k.attempted) >= fetchInterval {
		k.attempted = now
		var set *keySet
		// The fetch continues if this request ends, because other requests wait for it.
		if set, k.lastErr = k.fetch(context.WithoutCancel(ctx)); k.lastErr == nil {
			set.fetchedAt = now
			k.current.Store(set)
		}
	}
	if key, _ := k.known(id); key != nil {
		return key, nil
	}
	if k.lastErr != nil {
		return nil, fmt.Errorf("the scanner's public keys could not be fetched: %w", k.lastErr)
	}
	return nil, errUnsigned
}

// known returns the key with the id, or nil if it is unknown or the keys are too old. The result `due` reports whether the keys have
// to be fetched again.
func (k *keyring) known(id string) (key *ecdsa.PublicKey, due bool) {
	set := k.current.Load()
	if set == nil {
		return nil, true
	}
	age := k.now().Sub(set.fetchedAt)
	if age < k.maxAge {
		key = set.keys[id]
	}
	return key, age >= k.maxAge/4
}

// fetch fetches the keys. Its errors do not contain the URL, because the URL may contain a secret.
func (k *keyring) fetch(ctx context.Context) (*keySet, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, errors.New("the URL is invalid")
	}
	request.Header.Set("Accept", "application/json")
	response, err := k.client.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("%.200w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the response has the status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeyList+1))
	switch {
	case err != nil:
		return nil, errors.New("the response is incomplete")
	case len(body) > maxKeyList:
		return nil, fmt.Errorf("the response is longer than %d bytes", maxKeyList)
	}
	return parseKeys(body)
}

// parseKeys reads the scanner's list of keys. It ignores keys of other types than ECDSA with the curve P-256. All keys of the list
// are valid, also those that are not current.
func parseKeys(body []byte) (*keySet, error) {
	var list struct {
		Keys []struct {
			ID  string `json:"key_identifier"`
			PEM string `json:"key"`
		} `json:"public_keys"`
	}
	if json.Unmarshal(body, &list) != nil || len(list.Keys) == 0 {
		return nil, errors.New("the response is not a list of public keys")
	}
	set := &keySet{keys: make(map[string]*ecdsa.PublicKey)}
	for _, k := range list.Keys {
		block, _ := pem.Decode([]byte(k.PEM))
		if block == nil {
			continue
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := public.(*ecdsa.PublicKey)
		if err != nil || !ok || key.Curve != elliptic.P256() {
			continue
		}
		if _, repeated := set.keys[k.ID]; repeated {
			return nil, errors.New("two keys have the same identifier")
		}
		set.keys[k.ID] = key
	}
	return set, nil
}
