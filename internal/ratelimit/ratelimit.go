// Package ratelimit limits the requests of clients, and finds a client's address behind Envoy.
package ratelimit

import (
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// Limits contains a rate limit for each key. A key is an address or an app. A hash with a random seed assigns each key to one of
// a fixed number of slots, so memory does not grow with the number of keys. Keys in the same slot share one limit.
type Limits struct {
	seed  maphash.Seed
	slots [1 << 14]*rate.Limiter
}

// New returns limits that allow each key a number of requests per minute: the parameter `perMinute`. If perMinute is 0,
// there is no limit, and New returns nil.
func New(perMinute int) *Limits {
	if perMinute == 0 {
		return nil
	}
	l := &Limits{seed: maphash.MakeSeed()}
	for i := range l.slots {
		l.slots[i] = rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)
	}
	return l
}

// Take counts a request and returns 0. If the key has reached its limit, Take does not count the request, and returns the time
// that the caller must wait.
func (l *Limits) Take(key string) (wait time.Duration) {
	if l == nil {
		return 0
	}
	now := time.Now()
	r := l.slots[maphash.String(l.seed, key)%uint64(len(l.slots))].ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// Address returns the client address of a request, from the header that Envoy sets. If a client sends this header, Envoy replaces
// its value. Clients must be able to reach the server only through Envoy, because otherwise they could forge their address.
// Without the header, Address returns the peer address of the connection. For IPv6, it returns the /64 network of the address,
// because one client can use all addresses of such a network.
func Address(r *http.Request) string {
	text := r.Header.Get("X-Envoy-External-Address")
	if text == "" {
		text, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	network, _ := a.WithZone("").Prefix(bits) // an error is impossible: bits is never greater than the length of the address
	return network.String()
}
