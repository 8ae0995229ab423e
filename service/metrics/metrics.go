// Package metrics contains the Prometheus metrics of the sidecar, of the issuer and of the console.
package metrics

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/directory"
)

// Sidecar contains the metrics of the sidecar. Label values come from fixed sets, and never from a request. So the number of time
// series is limited.
type Sidecar struct {
	registry      *prometheus.Registry
	checks        counters[checkLabels]
	lookupSeconds *prometheus.HistogramVec
	cacheLookups  counters[lookupLabels]
	policySeconds prometheus.Histogram
}

// These are the labels of the counters that each check increments.
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

// counters stores the counter of each combination of labels. It finds a stored counter without a lock and without memory for the
// label values. Label values come from fixed sets, so the number of combinations is limited.
type counters[L comparable] struct {
	vector *prometheus.CounterVec
	values func(L) []string
	cached atomic.Pointer[map[L]prometheus.Counter]
	mu     sync.Mutex // guards additions to cached
}

// get returns the counter for the labels.
func (c *counters[L]) get(labels L) prometheus.Counter {
	if cached := c.cached.Load(); cached != nil {
		if counter, ok := (*cached)[labels]; ok {
			return counter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	extended := make(map[L]prometheus.Counter)
	if cached := c.cached.Load(); cached != nil {
		maps.Copy(extended, *cached)
	}
	counter := c.vector.WithLabelValues(c.values(labels)...)
	extended[labels] = counter
	c.cached.Store(&extended)
	return counter
}

// seconds contains the upper ends of the histogram buckets for durations. The first bucket ends at 10 µs, because a typical
// decision takes about this time. The last bucket ends at 0.33 s, because a longer duration is close to Envoy's timeout for a
// check.
var seconds = prometheus.ExponentialBuckets(10e-6, 2, 16)

// NewSidecar returns the metrics of a sidecar. The metrics include the statistics of the directory d and of the session verifier
// v, and the duration of the evaluations of the engine e.
func NewSidecar(d *directory.Directory, v *session.Verifier, e *policies.Engine) *Sidecar {
	m := &Sidecar{
		registry: prometheus.NewRegistry(),
		lookupSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keywicket_lookup_seconds",
			Help:    "Duration of look-ups except cache hits, by outcome and cache result.",
			Buckets: seconds,
		}, []string{"outcome", "cache"}),
		policySeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keywicket_policy_seconds", Help: "Duration of one policy evaluation, including the wait for a free evaluator.", Buckets: seconds,
		}),
	}
	m.checks.vector = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywicket_checks_total",
		Help: "Checks by API, code and reason. Code and reason are empty for an allow. API is empty for an unknown API.",
	}, []string{"api", "code", "reason"})
	m.checks.values = func(l checkLabels) []string { return []string{l.api, string(l.code), string(l.reason)} }
	m.cacheLookups.vector = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywicket_cache_lookups_total",
		Help: "Look-ups by cache result (hit, miss, bypass, stale), outcome, and kind of credential if one was found.",
	}, []string{"cache", "kind", "outcome"})
	m.cacheLookups.values = func(l lookupLabels) []string { return []string{string(l.cache), string(l.kind), l.outcome} }
	e.ObserveEvaluations(func(d time.Duration) { m.policySeconds.Observe(d.Seconds()) })
	m.registry.MustRegister(m.checks.vector, m.lookupSeconds, m.cacheLookups.vector, m.policySeconds, cacheMetrics{d}, sessionMetrics{v},
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keywicket_policy_remembered_total", Help: "Remembered decisions that were returned without an evaluation of the policy.",
		}, func() float64 { return float64(e.MemoryHits()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keywicket_policy_remembers", Help: "1: decisions are remembered. 0: decisions are not remembered, because they depend on values that change with each request.",
		}, func() float64 {
			if e.HasMemory() {
				return 1
			}
			return 0
		}),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler returns the handler of /metrics.
func (m *Sidecar) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Observe counts a check.
func (m *Sidecar) Observe(a authz.Answer) { m.checks.get(checkLabels{a.API, a.Code, a.Reason}).Inc() }

// Issuer contains the metrics of the issuer.
type Issuer struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	cleaned  prometheus.Counter
}

// NewIssuer returns the metrics of an issuer. The metrics include the statistics of the session verifier v.
func NewIssuer(v *session.Verifier) *Issuer {
	m := &Issuer{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywicket_issuer_requests_total",
			Help: "Requests to the issuer by endpoint and outcome: ok, an error code, limited (too many requests), reused (a code or token was used twice), repeated (a refresh token was used again within issuer.reuse_window), forged (a consent form that does not come from the issuer's page), or the choice of the user on the consent page.",
		}, []string{"endpoint", "outcome"}),
		cleaned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keywicket_issuer_cleaned_total", Help: "Expired codes and tokens that the issuer deleted.",
		}),
	}
	m.registry.MustRegister(m.requests, m.cleaned, sessionMetrics{v}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler returns the handler of /metrics.
func (m *Issuer) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Observe counts a request by its endpoint and its outcome.
func (m *Issuer) Observe(endpoint, outcome string) {
	m.requests.WithLabelValues(endpoint, outcome).Inc()
}

// CountCleaned counts expired codes and tokens that the issuer deleted.
func (m *Issuer) CountCleaned(n int) { m.cleaned.Add(float64(n)) }

// measuredDirectory counts look-ups by their cache result. It also measures the duration of look-ups, except of cache hits. A
// look-up without a cache result, such as a look-up that failed, is measured but not counted. The label outcome is found, error,
// or the reason of a denial, such as unknown.
type measuredDirectory struct {
	authz.Directory
	metrics *Sidecar
}

// MeasureDirectory returns a directory that passes each look-up to the directory d, and counts and measures it.
func (m *Sidecar) MeasureDirectory(d authz.Directory) authz.Directory { return measuredDirectory{d, m} }

func (d measuredDirectory) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
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
		d.metrics.lookupSeconds.WithLabelValues(outcome, string(found.Cache)).Observe(time.Since(start).Seconds())
	}
	if found.Cache != "" {
		d.metrics.cacheLookups.get(lookupLabels{found.Cache, found.Principal.Kind, outcome}).Inc()
	}
	return found, err
}

// cacheMetrics is a collector that reads the statistics of the cache at each scrape.
type cacheMetrics struct{ directory *directory.Directory }

var (
	leaseLeft = prometheus.NewDesc("keywicket_cache_lease_seconds",
		"Time for which the cache may still be used if the change log is not read again. 0: the cache is not used.", nil, nil)
	feedLag = prometheus.NewDesc("keywicket_cache_feed_lag_seconds",
		"Duration of the last read of the change log.", nil, nil)
	changes = prometheus.NewDesc("keywicket_cache_changes_total", "Rows read from the change log.", nil, nil)
	epochs  = prometheus.NewDesc("keywicket_cache_epochs_total",
		"Number of times that all cached answers were discarded, by cause: start (the first read of the change log), notice (a change of many rows), world (another server, or changed tables or triggers), gap (rows of the change log were deleted before the sidecar read them).", []string{"cause"}, nil)
	entries = prometheus.NewDesc("keywicket_cache_entries", "Cached answers, by kind: good or denied.", []string{"answers"}, nil)
	inBytes = prometheus.NewDesc("keywicket_cache_bytes", "Size of the cached answers in bytes, by kind: good or denied.", []string{"answers"}, nil)
	dropped = prometheus.NewDesc("keywicket_cache_dropped_total",
		"Answers that the cache did not store: too many answers came at the same time, or the cached answers were used more often.", []string{"answers"}, nil)
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
	for cause, n := range s.Discarded {
		to <- prometheus.MustNewConstMetric(epochs, counter, float64(n), string(cause))
	}
	for answers, stats := range map[string]cache.PartitionStats{"good": s.Good, "denied": s.Denied} {
		to <- prometheus.MustNewConstMetric(entries, gauge, float64(stats.Entries), answers)
		to <- prometheus.MustNewConstMetric(inBytes, gauge, float64(stats.Bytes), answers)
		to <- prometheus.MustNewConstMetric(dropped, counter, float64(stats.Dropped), answers)
	}
}

// sessionMetrics is a collector that reads the statistics of the session verifier at each scrape.
type sessionMetrics struct{ verifier *session.Verifier }

var (
	verifications = prometheus.NewDesc("keywicket_sessions_total",
		"Session tokens by API and result: remembered, verified, denied (not a valid token), or failed (verification was not possible).", []string{"api", "result"}, nil)
	keysAge = prometheus.NewDesc("keywicket_session_keys_age_seconds",
		"Age of the issuer's public keys.", []string{"api"}, nil)
	keys       = prometheus.NewDesc("keywicket_session_keys", "Number of the issuer's public keys. 0: no session is accepted.", []string{"api"}, nil)
	keyFetches = prometheus.NewDesc("keywicket_session_key_fetches_total",
		"Fetches of the issuer's public keys, by result: ok or failed.", []string{"api", "result"}, nil)
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
			"remembered": s.Cached, "verified": s.Verified, "denied": s.Denied, "failed": s.Failed,
		} {
			to <- prometheus.MustNewConstMetric(verifications, counter, float64(n), api, result)
		}
		if !s.HasPublicKeys {
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
