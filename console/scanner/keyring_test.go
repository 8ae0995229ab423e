package scanner_test

import (
	"crypto"
	"crypto/elliptic"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// expect sends a report that is signed with the key, and checks the status and the number of fetches so far.
func (f *fixture) expect(t *testing.T, when, id string, status int, fetches int64) {
	t.Helper()
	body := bodyOf(never)
	if a := f.send(t, body, signedBy(id, f.key, body)...); a.status != status {
		t.Errorf("%s: %d %s", when, a.status, a.text)
	}
	if n := f.keys.fetches.Load(); n != fetches {
		t.Errorf("%s: %d fetches, want %d", when, n, fetches)
	}
}

// A new key works after at most a minute, and a withdrawn key ends after a quarter of the maximum age. Made-up key ids cause at most
// one fetch a minute.
func TestKeyRotation(t *testing.T) {
	f := newFixture(t, nil)
	pass := func(d time.Duration) { f.clock.Add(int64(d)) }
	f.expect(t, "the first request", "current", http.StatusOK, 1)
	f.keys.publish(map[string]crypto.PublicKey{"current": f.key.Public(), "next": f.key.Public()})
	for i := range 5 {
		f.expect(t, "a made-up id", fmt.Sprint(i), http.StatusUnauthorized, 1)
	}
	f.expect(t, "the next key within a minute", "next", http.StatusUnauthorized, 1)
	pass(time.Minute)
	f.expect(t, "the next key", "next", http.StatusOK, 2)
	f.expect(t, "a made-up id", "x", http.StatusUnauthorized, 2)
	f.keys.publish(map[string]crypto.PublicKey{"next": f.key.Public()})
	f.expect(t, "a withdrawn key", "current", http.StatusOK, 2)
	pass(6 * time.Hour)
	f.expect(t, "a withdrawn key after a quarter of the maximum age", "current", http.StatusUnauthorized, 3)
	f.expect(t, "the next key", "next", http.StatusOK, 3)
	if log := f.log.String(); strings.Contains(log, "ERROR") {
		t.Errorf("the log has an error: %s", log)
	}
}

// If the keys cannot be fetched, known keys stay valid until their maximum age. Then requests get 503, not 401. The log has no URL,
// because the URL may contain a secret.
func TestKeyServerFails(t *testing.T) {
	f := newFixture(t, nil)
	f.keys.setFails(true)
	f.expect(t, "without keys", "current", http.StatusServiceUnavailable, 1)
	f.expect(t, "without keys, within a minute", "current", http.StatusServiceUnavailable, 1)
	f.keys.setFails(false)
	f.clock.Add(int64(time.Minute))
	f.expect(t, "with keys", "current", http.StatusOK, 2)
	f.keys.setFails(true)
	f.clock.Add(int64(7 * time.Hour))
	f.expect(t, "before the maximum age", "current", http.StatusOK, 3)
	f.clock.Add(int64(17 * time.Hour))
	f.expect(t, "after the maximum age", "current", http.StatusServiceUnavailable, 4)
	f.keys.Close()
	f.clock.Add(int64(time.Minute))
	f.expect(t, "nobody listens", "current", http.StatusServiceUnavailable, 4)
	if log := f.log.String(); !strings.Contains(log, "status 503") || !strings.Contains(log, "refused") || strings.Contains(log, "hunter2") {
		t.Errorf("the log is %s", log)
	}
}

// A list of keys that cannot be used counts as a failure. Keys of other types are ignored.
func TestListOfKeys(t *testing.T) {
	f := newFixture(t, nil)
	large, body := newKey(elliptic.P384()), bodyOf(never)
	f.keys.publish(map[string]crypto.PublicKey{"current": large.Public(), "other": f.key.Public()})
	if a := f.send(t, body, signedBy("current", large, body)...); a.status != http.StatusUnauthorized {
		t.Errorf("a key of another curve: %d", a.status)
	}
	f.expect(t, "the other key", "other", http.StatusOK, 1)
	f.keys.publish(nil)
	f.clock.Add(int64(24 * time.Hour))
	f.expect(t, "an empty list", "other", http.StatusServiceUnavailable, 2)
}
