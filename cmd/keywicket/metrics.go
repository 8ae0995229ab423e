package main

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store"
	"github.com/keywicket/keywicket/store/cache"
)

// metrics are what /metrics tells. Labels come from the product's own words, never from a request, so their number is
// bounded.
type metrics struct {
	registry *prometheus.Registry
	checks   counters[checkLabels]
	lookups  *prometheus.HistogramVec
	cached   counters[lookupLabels]
	policies prometheus.Histogram
}

// The labels of what is counted at each check.
type (
	checkLabels struct {
		api    string
		code   authz.Code
		reason authz.Reason
	}
	lookupLabels struct {
		cache   authz.CacheResult
		kind    authz.Kind
		outcome string
	}
)

// counters finds the counter of some labels without a lock, and without making a list of the labels each time. There are not
// many: see metrics.
type counters[L comparable] struct {
	vector *prometheus.CounterVec
	values func(L) []string
	known  atomic.Pointer[map[L]prometheus.Counter]
	adding sync.Mutex
}

func (c *counters[L]) of(labels L) prometheus.Counter {
	if known := c.known.Load(); known != nil {
		if counter, ok := (*known)[labels]; ok {
			return counter
		}
	}
	c.adding.Lock()
	defer c.adding.Unlock()
	known := make(map[L]prometheus.Counter)
	if before := c.known.Load(); before != nil {
		maps.Copy(known, *before)
	}
	counter := c.vector.WithLabelValues(c.values(labels)...)
	known[labels] = counter
	c.known.Store(&known)
	return counter
}

// From 10 µs, where a decision lies, to 0.33 s; what takes longer is near the end of the time that Envoy gives a check.
var seconds = prometheus.ExponentialBuckets(10e-6, 2, 16)

func newMetrics(d *store.Directory, v *session.Verifier, e *policies.Engine) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		lookups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keywicket_lookup_seconds",
			Help:    "Time of a look-up that is not answered from memory at once, by outcome and by what the cache had to do with it.",
			Buckets: seconds,
		}, []string{"outcome", "cache"}),
		policies: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keywicket_policy_seconds", Help: "Time of one evaluation of the policy, with the wait for its turn.", Buckets: seconds,
		}),
	}
	m.checks.vector = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywicket_checks_total",
		Help: "Checks answered, by API, code and reason; both are empty for an allow, the API for an unknown one.",
	}, []string{"api", "code", "reason"})
	m.checks.values = func(l checkLabels) []string { return []string{l.api, string(l.code), string(l.reason)} }
	m.cached.vector = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywicket_cache_lookups_total",
		Help: "Look-ups by what the cache had to do with them, hit, miss, bypass or stale, by outcome, and by kind of credential, where one was found.",
	}, []string{"cache", "kind", "outcome"})
	m.cached.values = func(l lookupLabels) []string { return []string{string(l.cache), string(l.kind), l.outcome} }
	e.Measure(func(d time.Duration) { m.policies.Observe(d.Seconds()) })
	m.registry.MustRegister(m.checks.vector, m.lookups, m.cached.vector, m.policies, cacheMetrics{d}, sessionMetrics{v},
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keywicket_policy_remembered_total", Help: "Decisions that were remembered, so that the policy was not evaluated.",
		}, func() float64 { return float64(e.Remembered()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keywicket_policy_remembers", Help: "1: decisions are remembered; 0: they depend on what changes each time.",
		}, func() float64 {
			if e.Remembers() {
				return 1
			}
			return 0
		}),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(a authz.Answer) { m.checks.of(checkLabels{a.API, a.Code, a.Reason}).Inc() }

// issuerMetrics are what /metrics of the issuer tells.
type issuerMetrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	cleaned  prometheus.Counter
}

func newIssuerMetrics(v *session.Verifier) issuerMetrics {
	m := issuerMetrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywicket_issuer_requests_total",
			Help: "Requests to the issuer, by endpoint and what became of them: ok, an error's code, limited, reused, or what the user did.",
		}, []string{"endpoint", "outcome"}),
		cleaned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keywicket_issuer_cleaned_total", Help: "Codes and tokens that were over, and were deleted.",
		}),
	}
	m.registry.MustRegister(m.requests, m.cleaned, sessionMetrics{v}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m issuerMetrics) observe(endpoint, outcome string) {
	m.requests.WithLabelValues(endpoint, outcome).Inc()
}

// measuredDirectory measures look-ups. An unknown token is an outcome like any other; only an error is not.
type measuredDirectory struct {
	authz.Directory
	metrics *metrics
}

func (d measuredDirectory) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	start := time.Now()
	found, err := d.Directory.Lookup(ctx, l)
	outcome := "found"
	switch {
	case err != nil:
		outcome = "error"
	case found.Denial != "":
		outcome = string(found.Denial)
	}
	if found.Cache != authz.CacheHit {
		d.metrics.lookups.WithLabelValues(outcome, string(found.Cache)).Observe(time.Since(start).Seconds())
	}
	if found.Cache != "" {
		d.metrics.cached.of(lookupLabels{found.Cache, found.Principal.Kind, outcome}).Inc()
	}
	return found, err
}

// cacheMetrics reads the cache's own figures when it is asked for them.
type cacheMetrics struct{ directory *store.Directory }

var (
	leaseLeft = prometheus.NewDesc("keywicket_cache_lease_seconds",
		"For how long the cache may still be used if the change log cannot be read any more; 0: it is not used.", nil, nil)
	feedLag = prometheus.NewDesc("keywicket_cache_feed_lag_seconds",
		"How long the last reading of the change log took.", nil, nil)
	changes = prometheus.NewDesc("keywicket_cache_changes_total", "Rows of the change log that were read.", nil, nil)
	epochs  = prometheus.NewDesc("keywicket_cache_epochs_total",
		"How often everything was forgotten: start, notice (a change of many rows), world (another server, other tables or triggers), gap (rows of the log were missed).", []string{"cause"}, nil)
	entries = prometheus.NewDesc("keywicket_cache_entries", "Answers remembered, good ones and denials.", []string{"answers"}, nil)
	inBytes = prometheus.NewDesc("keywicket_cache_bytes", "What they take.", []string{"answers"}, nil)
	dropped = prometheus.NewDesc("keywicket_cache_dropped_total",
		"Answers that were not remembered: too many at a time, or worth less than what is there.", []string{"answers"}, nil)
)

// Describe implements [prometheus.Collector].
func (c cacheMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaseLeft, feedLag, changes, epochs, entries, inBytes, dropped} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c cacheMetrics) Collect(to chan<- prometheus.Metric) {
	s := c.directory.CacheStats()
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	to <- prometheus.MustNewConstMetric(leaseLeft, gauge, s.LeaseLeft.Seconds())
	to <- prometheus.MustNewConstMetric(feedLag, gauge, s.FeedLag.Seconds())
	to <- prometheus.MustNewConstMetric(changes, counter, float64(s.Changes))
	for cause, n := range s.Epochs {
		to <- prometheus.MustNewConstMetric(epochs, counter, float64(n), string(cause))
	}
	for answers, room := range map[string]cache.RoomStats{"good": s.Good, "denied": s.Denied} {
		to <- prometheus.MustNewConstMetric(entries, gauge, float64(room.Entries), answers)
		to <- prometheus.MustNewConstMetric(inBytes, gauge, float64(room.Bytes), answers)
		to <- prometheus.MustNewConstMetric(dropped, counter, float64(room.Dropped), answers)
	}
}

// sessionMetrics reads the verifier's own figures when it is asked for them.
type sessionMetrics struct{ verifier *session.Verifier }

var (
	verifications = prometheus.NewDesc("keywicket_sessions_total",
		"Session tokens by what was found: remembered, verified, denied, or failed where it could not be told.", []string{"api", "result"}, nil)
	keysAge = prometheus.NewDesc("keywicket_session_keys_age_seconds",
		"How long ago the issuer's public keys were fetched.", []string{"api"}, nil)
	keys       = prometheus.NewDesc("keywicket_session_keys", "How many of them there are; 0: no session is taken.", []string{"api"}, nil)
	keyFetches = prometheus.NewDesc("keywicket_session_key_fetches_total",
		"Fetches of the issuer's public keys, by result: ok, failed.", []string{"api", "result"}, nil)
)

// Describe implements [prometheus.Collector].
func (c sessionMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{verifications, keysAge, keys, keyFetches} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c sessionMetrics) Collect(to chan<- prometheus.Metric) {
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	for api, s := range c.verifier.Stats() {
		for result, n := range map[string]uint64{
			"remembered": s.Remembered, "verified": s.Verified, "denied": s.Denied, "failed": s.Failed,
		} {
			to <- prometheus.MustNewConstMetric(verifications, counter, float64(n), api, result)
		}
		if !s.Public {
			continue
		}
		to <- prometheus.MustNewConstMetric(keys, gauge, float64(s.Keys), api)
		to <- prometheus.MustNewConstMetric(keyFetches, counter, float64(s.Fetched), api, "ok")
		to <- prometheus.MustNewConstMetric(keyFetches, counter, float64(s.FetchFailed), api, "failed")
		if s.KeysAge > 0 {
			to <- prometheus.MustNewConstMetric(keysAge, gauge, s.KeysAge.Seconds(), api)
		}
	}
}
