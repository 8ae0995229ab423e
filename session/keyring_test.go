package session_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/test/supabase"
)

// minKeysMaxAge is the minimum value of the setting jwks_max_age.
const minKeysMaxAge = 4 * time.Second

func es256(key *ecdsa.PrivateKey, kid string) authz.Secret {
	return sign(jose.ES256, key, kid, claimsWith(nil))
}

// isLate reports whether a fetch took longer than a check waits for it. On a busy machine this can happen, and is not a failure.
func isLate(err error) bool { return err != nil && strings.Contains(err.Error(), "not yet answered") }

// A client can forge tokens with unknown key ids. Such tokens cause only a few fetches from the issuer.
func TestForgedKeyIDsCauseFewFetches(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	unreachable, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
		Issuer: supabase.IssuerClaim, JWKSURL: "http://127.0.0.1:1"}}}}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer unreachable.Close()
	const forged, seconds = 10_000, 31
	token := strings.Split(es256(ecKey, "x").Reveal(), ".")
	start := time.Now()
	for i := range forged {
		for time.Since(start) < time.Duration(i)*seconds*time.Second/forged {
			time.Sleep(time.Millisecond)
		}
		header := encode(fmt.Sprintf(`{"alg":"ES256","typ":"JWT","kid":"forged-%d"}`, i))
		if _, denial, err := verify(t, v, api, authz.Secret(header+"."+token[1]+"."+token[2])); err != nil || denial != authz.ReasonUnknown {
			t.Fatalf("number %d: %q, %v", i, denial, err)
		}
	}
	if got := p.Fetches() - 1; got < 1 || got > 2 {
		t.Errorf("%d forged key ids over %d s caused %d fetches", forged, seconds, got)
	}
	// The loop took longer than startGrace, so the verifier whose issuer never answers is now ready.
	if notices, err := unreachable.Ready(); err != nil || len(notices) != 1 || !strings.Contains(notices[0], "never fetched") {
		t.Errorf("without an issuer: %q, %v", notices, err)
	}
}

// The issuer replaces its key. It publishes the new key before it signs tokens with this key, or at the same time. All valid
// sessions are accepted. Sessions of the old key are refused when JWKSMaxAge has passed since the issuer removed the key.
func TestKeysRotateUnderLoad(t *testing.T) {
	t.Parallel()
	p := publish(t, public("old", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: minKeysMaxAge}, nil)
	var signing atomic.Pointer[func() authz.Secret]
	signWithKey := func(key *ecdsa.PrivateKey, kid string) {
		f := func() authz.Secret { return es256(key, kid) }
		signing.Store(&f)
	}
	signWithKey(ecKey, "old")
	oldToken := es256(ecKey, "old")
	stop := make(chan struct{})
	var workers sync.WaitGroup
	var accepted, delayed atomic.Int64
	for range 4 {
		workers.Go(func() {
			reused := (*signing.Load())()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				token := reused
				if i%2 == 0 {
					token = (*signing.Load())()
					reused = token // so that this goroutine does not use a token of the old key for long
				}
				_, denial, err := verify(t, v, api, token)
				switch {
				case isLate(err):
					delayed.Add(1)
				case err != nil || denial != "":
					t.Errorf("a valid session: %q, %v", denial, err)
					return
				default:
					accepted.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	p.Publish(public("old", &ecKey.PublicKey), public("new", &otherEC.PublicKey))
	signWithKey(otherEC, "new")
	time.Sleep(500 * time.Millisecond)
	p.Publish(public("new", &otherEC.PublicKey))
	withdrawn := time.Now()
	for time.Since(withdrawn) < minKeysMaxAge {
		_, _, _ = verify(t, v, api, oldToken) // the frequent use keeps the token in the cache
		time.Sleep(10 * time.Millisecond)
	}
	for name, token := range map[string]authz.Secret{"cached": oldToken, "not cached": es256(ecKey, "old")} {
		if _, denial, err := verify(t, v, api, token); err != nil || denial != authz.ReasonUnknown {
			t.Errorf("a session of a withdrawn key, %s: %q, %v", name, denial, err)
		}
	}
	close(stop)
	workers.Wait()
	t.Logf("%d sessions were accepted, and the keys were fetched %d times", accepted.Load(), p.Fetches())
	if delayed.Load() > 8 { // 8 is two for each of the 4 goroutines
		t.Errorf("%d sessions could not be verified in time: more than 8 are too many, even on a busy machine", delayed.Load())
	}

	// Now the issuer uses the same key id for another key.
	reused := es256(otherEC, "new")
	eventually(t, "the session is accepted", func() bool { _, denial, _ := verify(t, v, api, reused); return denial == "" })
	p.Publish(public("new", &ecKey.PublicKey))
	eventually(t, "the other key's sessions are refused", func() bool {
		_, denial, _ := verify(t, v, api, reused)
		return denial == authz.ReasonUnknown
	})
}

// If an issuer does not answer correctly, the verifier uses the known keys until they are too old. After that, each check returns
// an error.
func TestIssuerThatFails(t *testing.T) {
	redirectTarget := supabase.Start()
	t.Cleanup(redirectTarget.Close)
	redirectTarget.Publish(public("ec", &ecKey.PublicKey))
	for name, handler := range map[string]http.HandlerFunc{
		"not HTTP": func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(c, "HTTP/1.1 200 "+r.URL.Path+"\nx\n\n")
			_ = c.Close()
		},
		"an error":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"not JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"not a set": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"error":"unavailable"}`) },
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`+strings.Repeat(" ", 300<<10)+`]}`)
		},
		"a redirect": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", redirectTarget.URL)
			w.WriteHeader(http.StatusFound)
		},
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := publish(t, public("ec", &ecKey.PublicKey))
			v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: minKeysMaxAge}, nil)
			cachedToken := es256(ecKey, "ec")
			p.SetHandler(handler)
			var lastErr error
			eventually(t, "the keys are too old", func() bool {
				for _, token := range []authz.Secret{es256(ecKey, "ec"), cachedToken} {
					_, denial, err := verify(t, v, api, token)
					if denial != "" {
						t.Fatalf("a valid session is denied: %s", denial)
					}
					lastErr = err
				}
				return lastErr != nil
			})
			if !strings.Contains(lastErr.Error(), "too old") || strings.Contains(lastErr.Error(), p.URL) {
				t.Error(lastErr)
			}
			notices, err := v.Ready()
			if err != nil || len(notices) != 1 || !strings.Contains(notices[0], "too old") {
				t.Errorf("readiness: %q, %v", notices, err)
			}
			if s := v.Stats()[api]; s.FetchFailed == 0 || s.KeysAge < minKeysMaxAge || s.Failed == 0 {
				t.Errorf("%+v", s)
			}
			p.SetHandler(nil)
			eventually(t, "the keys are fetched again", func() bool { _, denial, err := verify(t, v, api, cachedToken); return denial == "" && err == nil })
			if notices, err := v.Ready(); err != nil || len(notices) != 0 {
				t.Errorf("readiness: %q, %v", notices, err)
			}
		})
	}
}

// With a long KeyWait, the first call of Verify waits for an issuer that answers slowly. If the fetch fails, Verify returns the cause.
func TestKeyWait(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{http.StatusOK: "", http.StatusNotFound: "the issuer's public keys could not be fetched: the response has the status 404"} {
		p := publish(t)
		p.SetHandler(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(500 * time.Millisecond) // longer than the default of KeyWait
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("ec", &ecKey.PublicKey)}})
		})
		apis := map[string]authz.API{api: {Session: authz.SessionFormat{Issuer: supabase.IssuerClaim, JWKSURL: p.URL}}}
		v, err := session.New(session.Config{APIs: apis, KeyWait: time.Minute}, discard)
		if err != nil {
			t.Fatal(err)
		}
		if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); denial != "" || (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%d: %q, %v", status, denial, err)
		}
		v.Close()
	}
}

// While an issuer does not answer, the check of a token with an unknown key waits at most unknownKeyWait. The check of a token
// with a known key does not wait.
func TestUnknownKeyBlocksNoOtherCheck(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	release, fetching := make(chan struct{}), make(chan struct{}, 10)
	p.SetHandler(func(http.ResponseWriter, *http.Request) { fetching <- struct{}{}; <-release })
	done := make(chan error)
	go func() {
		_, denial, err := verify(t, v, api, es256(ecKey, "unknown"))
		if denial != "" {
			t.Errorf("the issuer has not answered, but the denial is %s", denial)
		}
		done <- err
	}()
	<-fetching
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); denial != "" || err != nil {
		t.Errorf("%q, %v", denial, err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not yet answered") {
		t.Errorf("the check waited for the issuer: %v", err)
	}
	close(release)
}

// A fetch that is already running may not see a key that the issuer publishes during the fetch. So the check of a token with this
// key starts another fetch.
func TestKeyThatIsPublishedDuringAFetch(t *testing.T) {
	t.Parallel()
	p := publish(t, public("old", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: minKeysMaxAge}, nil)
	var once sync.Once
	fetching, release := make(chan struct{}), make(chan struct{})
	p.SetHandler(func(w http.ResponseWriter, _ *http.Request) {
		keys := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("new", &otherEC.PublicKey)}}
		once.Do(func() {
			close(fetching)
			<-release
			keys.Keys = []jose.JSONWebKey{public("old", &ecKey.PublicKey)}
		})
		_ = json.NewEncoder(w).Encode(keys)
	})
	<-fetching // the periodic fetch is running
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, denial, err := verify(t, v, api, es256(otherEC, "new"))
		for isLate(err) {
			_, denial, err = verify(t, v, api, es256(otherEC, "new"))
		}
		if denial != "" || err != nil {
			t.Errorf("%q, %v", denial, err)
		}
	}()
	time.Sleep(50 * time.Millisecond) // in this time, the check begins to wait for the fetch
	close(release)
	<-done
}

// The keyring soon retries a failed fetch, whether it was a periodic fetch or a fetch for a token. Until then, the check of a
// token with an unknown key returns an error.
func TestFailedFetchIsRetried(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	p.SetHandler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for range 2 {
		if _, denial, err := verify(t, v, api, es256(ecKey, "unknown")); denial != "" || err == nil || !isLate(err) && !strings.Contains(err.Error(), "418") {
			t.Errorf("%q, %v", denial, err)
		}
	}
	p.SetHandler(nil)
	eventually(t, "the verifier has no notices", func() bool { notices, err := v.Ready(); return len(notices) == 0 && err == nil })
	if _, denial, err := verify(t, v, api, es256(ecKey, "unknown")); denial != authz.ReasonUnknown || err != nil {
		t.Errorf("%q, %v", denial, err)
	}
}

// Close may run during calls of Verify. This happens in a sidecar whose checks do not end in time.
func TestCloseDuringVerify(t *testing.T) {
	t.Parallel()
	for range 20 {
		p := publish(t, public("ec", &ecKey.PublicKey))
		v, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
			Issuer: supabase.IssuerClaim, JWKSURL: p.URL}}}, MaxBytes: 1 << 20}, discard)
		if err != nil {
			t.Fatal(err)
		}
		var checks sync.WaitGroup
		for range 8 {
			checks.Go(func() {
				for range 20 {
					_, _, _ = verify(t, v, api, es256(ecKey, "unknown"))
				}
			})
		}
		v.Close()
		checks.Wait()
	}
}

// If a sidecar starts before its issuer, the sidecar accepts no session and reports the reason.
func TestIssuerThatStartsLater(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	p.SetHandler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	v, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
		Issuer: supabase.IssuerClaim, JWKSURL: p.URL, JWKSMaxAge: minKeysMaxAge}}}}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	eventually(t, "a fetch has failed", func() bool { return p.Fetches() > 0 && v.Stats()[api].FetchFailed > 0 })
	if _, err := v.Ready(); err == nil || !strings.Contains(err.Error(), "apis.velocity.session") || !strings.Contains(err.Error(), "502") {
		t.Errorf("readiness: %v", err)
	}
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); err == nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
	p.SetHandler(nil)
	eventually(t, "the verifier is ready", func() bool { _, err := v.Ready(); return err == nil })
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); err != nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
}
