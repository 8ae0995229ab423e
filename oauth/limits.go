package oauth

import (
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// limits allow each caller a number of requests per minute. An unpredictable hash assigns each caller to one of a fixed
// number of slots, so memory does not grow with the number of callers. Callers in the same slot share its limit.
type limits struct {
	seed  maphash.Seed
	rooms [1 << 14]*rate.Limiter
}

// newLimits of 0 a minute are none.
func newLimits(perMinute int) *limits {
	if perMinute == 0 {
		return nil
	}
	l := &limits{seed: maphash.MakeSeed()}
	for i := range l.rooms {
		l.rooms[i] = rate.NewLimiter(rate.Limit(float64(perMinute)/60), perMinute)
	}
	return l
}

// take counts a request, or returns how long to wait.
func (l *limits) take(who string) (wait time.Duration) {
	if l == nil {
		return 0
	}
	now := time.Now()
	r := l.rooms[maphash.String(l.seed, who)%uint64(len(l.rooms))].ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// address returns the client address of a request. Envoy sets it and overwrites a value from outside. For IPv6, it is the
// network of one customer, because a customer can use any number of addresses in it.
func address(r *http.Request) string {
	told := r.Header.Get("X-Envoy-External-Address")
	if told == "" {
		told, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	a, err := netip.ParseAddr(told)
	if err != nil {
		return told
	}
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	network, _ := a.WithZone("").Prefix(bits) // no address is shorter
	return network.String()
}
