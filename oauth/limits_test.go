package oauth_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keywicket/keywicket/oauth"
)

// An address over its limit must wait. Each IPv4 address has its own limit, but all addresses of an IPv6 /64 network share a
// limit. Requests over the limit cause no look-up.
func TestAddressLimit(t *testing.T) {
	i := newFixture(t, func(c *oauth.Config) { c.AddressLimit = 3 })
	const header = "X-Envoy-External-Address"
	refresh := func(address, client string) response {
		return i.send(t, "/api/oauth/token", form{"grant_type": "refresh_token", "client_id": client, "refresh_token": "made-up"}, header, address)
	}
	for range 3 {
		if r := refresh("192.0.2.1", i.public.ID); r.status != http.StatusBadRequest {
			t.Fatalf("%+v", r)
		}
	}
	r := refresh("192.0.2.1", "nobody")
	wait, err := strconv.Atoi(r.header.Get("Retry-After"))
	if r.status != http.StatusTooManyRequests || r.text("error") != "temporarily_unavailable" || err != nil || wait < 1 || wait > 20 {
		t.Errorf("%+v: wait %d s, %v", r, wait, err)
	}
	for _, path := range []string{"/api/oauth/revoke", "/api/oauth/introspect"} {
		if r := i.send(t, path, form{"token": "x", "client_id": i.public.ID}, header, "192.0.2.1"); r.status != http.StatusTooManyRequests {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if r := refresh("192.0.2.2", i.public.ID); r.status != http.StatusBadRequest {
		t.Errorf("another address: %+v", r)
	}
	for n, address := range []string{"2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:1:ffff::", "2001:db8:1:1::1"} {
		if r := refresh(address, i.public.ID); (r.status == http.StatusTooManyRequests) != (n == 3) {
			t.Errorf("%s: %+v", address, r)
		}
	}
	if r := refresh("2001:db8:1:2::1", i.public.ID); r.status != http.StatusBadRequest {
		t.Errorf("another network: %+v", r)
	}
	if text := i.log.String(); text != "" {
		t.Errorf("the log must be empty: %s", text)
	}
}

// All requests of an app count toward one limit, whatever address they come from. If another program sends requests with the
// app's id but without the app's secret, these requests do not use up the app's own limit.
func TestClientLimit(t *testing.T) {
	i := newFixture(t, func(c *oauth.Config) { c.ClientLimit = 3 })
	introspect := func(f form, n int) response {
		return i.send(t, "/api/oauth/introspect", f, "X-Envoy-External-Address", "192.0.2."+strconv.Itoa(n))
	}
	unauthenticated := form{"token": "x", "client_id": i.public.ID}
	for n := range 3 {
		if r := introspect(unauthenticated, n); r.status != http.StatusUnauthorized {
			t.Fatalf("%+v", r)
		}
	}
	if r := introspect(unauthenticated, 4); r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") == "" {
		t.Errorf("%+v", r)
	}
	for n := range 3 {
		if r := introspect(unauthenticated.withValue("client_secret", i.publicSecret.Reveal()), n); r.status != http.StatusOK {
			t.Errorf("with the secret: %+v", r)
		}
	}
	if r := introspect(unauthenticated.withValue("client_secret", i.publicSecret.Reveal()), 5); r.status != http.StatusTooManyRequests {
		t.Errorf("with the secret, over the limit: %+v", r)
	}
	for n := range 5 { // requests with a wrong secret do not count toward the app's limit either
		if r := introspect(form{"token": "x", "client_id": i.confidential.ID, "client_secret": "guessed"}, n); r.status != http.StatusUnauthorized {
			t.Errorf("a wrong secret: %+v", r)
		}
	}
}

// The log and the observed outcomes show the actions that succeeded and the actions that failed. The log contains no secret.
func TestOperatorsSeeActionsAndNoSecret(t *testing.T) {
	var mu sync.Mutex
	outcomes := map[string]int{}
	i := newFixture(t, func(c *oauth.Config) {
		c.Observe = func(endpoint, outcome string) {
			mu.Lock()
			defer mu.Unlock()
			outcomes[endpoint+" "+outcome]++
		}
	})
	b := i.adaBrowser()
	p := b.do(t, "GET", i.request(), nil)
	q := expectRedirect(t, b.do(t, "POST", i.request(), p.form("approve", i.acme.ID)))
	expectRedirect(t, b.do(t, "POST", i.request(), p.form("deny")))
	forged := p.form("approve", i.acme.ID)
	forged.Set("proof", "guessed")
	b.do(t, "POST", i.request(), forged)
	i.browser().do(t, "GET", i.request(), nil)
	b.do(t, "GET", i.request("client_id", "nobody"), nil)
	b.do(t, "GET", i.request("scope", "all"), nil)
	exchange := i.exchangeForm(t, i.public).withValue("code", q.Get("code"))
	tokens := i.send(t, "/api/oauth/token", exchange)
	i.send(t, "/api/oauth/revoke", form{"client_id": i.public.ID, "token": tokens.text("access_token")})
	i.send(t, "/api/oauth/introspect", form{"client_id": i.public.ID, "token": tokens.text("access_token")})
	if r := i.send(t, "/api/oauth/token", exchange); r.text("error") != "invalid_grant" {
		t.Fatalf("%+v", r)
	}
	for _, want := range []string{
		"consent asked", "consent approved", "consent denied", "consent forged", "consent signed_out", "consent mistake",
		"consent invalid_scope", "token ok", "token reused", "revoke ok", "introspect invalid_client",
	} {
		if outcomes[want] != 1 {
			t.Errorf("%q occurs %d times in %v, want once", want, outcomes[want], outcomes)
		}
	}
	log := i.log.String()
	for _, want := range []string{
		"granted access", "client_id=" + i.public.ID, "user_id=" + i.ada.ID, "tokens were issued", "a token was revoked",
		"level=WARN msg=\"a code or refresh token was used a second time",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%s is missing in %s", want, log)
		}
	}
	for _, secret := range []string{q.Get("code"), tokens.text("access_token"), tokens.text("refresh_token"), verifier, "random_state", p.form("").Get("proof")} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}
