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

// shortest is the minimum of jwks_max_age.
const shortest = 4 * time.Second

func es256(key *ecdsa.PrivateKey, kid string) authz.Secret {
	return sign(jose.ES256, key, kid, good(nil))
}

// late reports that a fetch took longer than a request waits for it. This happens on a busy machine and is not a failure.
func late(err error) bool { return err != nil && strings.Contains(err.Error(), "not yet answered") }

// Anybody can write tokens with unknown key ids. They cause only a few fetches from the issuer.
func TestForgedKeyIDsRarelyFetch(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	nobody, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
		Issuer: supabase.Name, JWKSURL: "http://127.0.0.1:1"}}}}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
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
		t.Errorf("%d forged key ids over %d s made %d fetches", forged, seconds, got)
	}
	// In the meantime, startGrace has passed for the verifier whose issuer never answers.
	if notices, err := nobody.Ready(); err != nil || len(notices) != 1 || !strings.Contains(notices[0], "never fetched") {
		t.Errorf("without an issuer: %q, %v", notices, err)
	}
}

// The issuer changes its key. It publishes the new key before its first use, or at the same moment. No session is refused, and
// the old key is rejected once JWKSMaxAge has passed since its withdrawal.
func TestKeysRotateUnderLoad(t *testing.T) {
	t.Parallel()
	p := publish(t, public("old", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: shortest}, nil)
	var signing atomic.Pointer[func() authz.Secret]
	use := func(key *ecdsa.PrivateKey, kid string) {
		f := func() authz.Secret { return es256(key, kid) }
		signing.Store(&f)
	}
	use(ecKey, "old")
	early := es256(ecKey, "old")
	stop := make(chan struct{})
	var load sync.WaitGroup
	var taken, delayed atomic.Int64
	for range 4 {
		load.Go(func() {
			kept := (*signing.Load())()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				token := kept
				if i%2 == 0 {
					token = (*signing.Load())()
					kept = token // replaced with each new token, so that no old token is presented for long
				}
				_, denial, err := verify(t, v, api, token)
				switch {
				case late(err):
					delayed.Add(1)
				case err != nil || denial != "":
					t.Errorf("a good session: %q, %v", denial, err)
					return
				default:
					taken.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	p.Publish(public("old", &ecKey.PublicKey), public("new", &otherEC.PublicKey))
	use(otherEC, "new")
	time.Sleep(500 * time.Millisecond)
	p.Publish(public("new", &otherEC.PublicKey))
	withdrawn := time.Now()
	for time.Since(withdrawn) < shortest {
		_, _, _ = verify(t, v, api, early) // keeps the token in the cache
		time.Sleep(10 * time.Millisecond)
	}
	for name, token := range map[string]authz.Secret{"remembered": early, "not seen before": es256(ecKey, "old")} {
		if _, denial, err := verify(t, v, api, token); err != nil || denial != authz.ReasonUnknown {
			t.Errorf("a session of a key that is withdrawn, %s: %q, %v", name, denial, err)
		}
	}
	close(stop)
	load.Wait()
	t.Logf("%d sessions were taken, the keys fetched %d times", taken.Load(), p.Fetches())
	if delayed.Load() > 8 { // two for each goroutine
		t.Errorf("%d sessions could not be verified in time: that is more than a busy machine explains", delayed.Load())
	}

	// A key id is reused for another key.
	reused := es256(otherEC, "new")
	eventually(t, "it is taken", func() bool { _, denial, _ := verify(t, v, api, reused); return denial == "" })
	p.Publish(public("new", &ecKey.PublicKey))
	eventually(t, "the other key's sessions are refused", func() bool {
		_, denial, _ := verify(t, v, api, reused)
		return denial == authz.ReasonUnknown
	})
}

// Failures of an issuer: known keys are used until they are too old. After that, each check is an error.
func TestIssuerThatDoesNotAnswer(t *testing.T) {
	good := supabase.Start()
	t.Cleanup(good.Close)
	good.Publish(public("ec", &ecKey.PublicKey))
	for name, answer := range map[string]http.HandlerFunc{
		"no HTTP": func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(c, "HTTP/1.1 200 "+r.URL.Path+"\nx\n\n")
			_ = c.Close()
		},
		"an error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no JSON":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no set":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"error":"unavailable"}`) },
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`+strings.Repeat(" ", 300<<10)+`]}`)
		},
		"elsewhere": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", good.URL)
			w.WriteHeader(http.StatusFound)
		},
		"nothing": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := publish(t, public("ec", &ecKey.PublicKey))
			v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: shortest}, nil)
			seen := es256(ecKey, "ec")
			p.ServeInstead(answer)
			var last error
			eventually(t, "the keys are too old", func() bool {
				for _, token := range []authz.Secret{es256(ecKey, "ec"), seen} {
					_, denial, err := verify(t, v, api, token)
					if denial != "" {
						t.Fatalf("a good session is %s", denial)
					}
					last = err
				}
				return last != nil
			})
			if !strings.Contains(last.Error(), "too old") || strings.Contains(last.Error(), p.URL) {
				t.Error(last)
			}
			notices, err := v.Ready()
			if err != nil || len(notices) != 1 || !strings.Contains(notices[0], "too old") {
				t.Errorf("readiness: %q, %v", notices, err)
			}
			if s := v.Stats()[api]; s.FetchFailed == 0 || s.KeysAge < shortest || s.Failed == 0 {
				t.Errorf("%+v", s)
			}
			p.ServeInstead(nil)
			eventually(t, "they are fetched again", func() bool { _, denial, err := verify(t, v, api, seen); return denial == "" && err == nil })
			if notices, err := v.Ready(); err != nil || len(notices) != 0 {
				t.Errorf("readiness: %q, %v", notices, err)
			}
		})
	}
}

// While an issuer does not answer, a token with an unknown key waits only for unknownWait. A token with a known key does not wait.
func TestUnknownKeyBlocksNoOtherCheck(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	release, asked := make(chan struct{}), make(chan struct{}, 10)
	p.ServeInstead(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-release })
	done := make(chan error)
	go func() {
		_, denial, err := verify(t, v, api, es256(ecKey, "unknown"))
		if denial != "" {
			t.Errorf("nobody can tell, yet it is %s", denial)
		}
		done <- err
	}()
	<-asked
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); denial != "" || err != nil {
		t.Errorf("%q, %v", denial, err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not yet answered") {
		t.Errorf("it waited until the end: %v", err)
	}
	close(release)
}

// The answer to a fetch that was already running does not contain a key that was published since.
func TestKeyThatIsPublishedDuringAFetch(t *testing.T) {
	t.Parallel()
	p := publish(t, public("old", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL, JWKSMaxAge: shortest}, nil)
	var once sync.Once
	fetching, answer := make(chan struct{}), make(chan struct{})
	p.ServeInstead(func(w http.ResponseWriter, _ *http.Request) {
		keys := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public("new", &otherEC.PublicKey)}}
		once.Do(func() {
			close(fetching)
			<-answer
			keys.Keys = []jose.JSONWebKey{public("old", &ecKey.PublicKey)}
		})
		_ = json.NewEncoder(w).Encode(keys)
	})
	<-fetching // in the background
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, denial, err := verify(t, v, api, es256(otherEC, "new"))
		for late(err) {
			_, denial, err = verify(t, v, api, es256(otherEC, "new"))
		}
		if denial != "" || err != nil {
			t.Errorf("%q, %v", denial, err)
		}
	}()
	time.Sleep(50 * time.Millisecond) // until the check waits for the fetch
	close(answer)
	<-done
}

// A failed fetch is tried again soon, in the background or for a token. Until then, the check of an unknown key is an error.
func TestFailedFetchIsRetried(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	p.ServeInstead(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for range 2 {
		if _, denial, err := verify(t, v, api, es256(ecKey, "unknown")); denial != "" || err == nil || !late(err) && !strings.Contains(err.Error(), "418") {
			t.Errorf("%q, %v", denial, err)
		}
	}
	p.ServeInstead(nil)
	eventually(t, "there is nothing wrong", func() bool { notices, err := v.Ready(); return len(notices) == 0 && err == nil })
	if _, denial, err := verify(t, v, api, es256(ecKey, "unknown")); denial != authz.ReasonUnknown || err != nil {
		t.Errorf("%q, %v", denial, err)
	}
}

// The verifier can be closed during calls of Verify. This happens in a sidecar whose time to stop has run out.
func TestCloseDuringLookups(t *testing.T) {
	t.Parallel()
	for range 20 {
		p := publish(t, public("ec", &ecKey.PublicKey))
		v, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
			Issuer: supabase.Name, JWKSURL: p.URL}}}, MaxBytes: 1 << 20}, discard)
		if err != nil {
			t.Fatal(err)
		}
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for range 20 {
					_, _, _ = verify(t, v, api, es256(ecKey, "unknown"))
				}
			})
		}
		v.Close()
		asking.Wait()
	}
}

// A sidecar that starts before its issuer accepts no session, and reports why.
func TestIssuerThatStartsLater(t *testing.T) {
	t.Parallel()
	p := publish(t, public("ec", &ecKey.PublicKey))
	p.ServeInstead(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	v, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{
		Issuer: supabase.Name, JWKSURL: p.URL, JWKSMaxAge: shortest}}}}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	eventually(t, "it has asked", func() bool { return p.Fetches() > 0 && v.Stats()[api].FetchFailed > 0 })
	if _, err := v.Ready(); err == nil || !strings.Contains(err.Error(), "apis.velocity.session") || !strings.Contains(err.Error(), "502") {
		t.Errorf("readiness: %v", err)
	}
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); err == nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
	p.ServeInstead(nil)
	eventually(t, "it is ready", func() bool { _, err := v.Ready(); return err == nil })
	if _, denial, err := verify(t, v, api, es256(ecKey, "ec")); err != nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
}
