package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keywicket/keywicket/authz"
)

// metrics are what /metrics tells. Labels come from the product's own words, never from a request, so their number is
// bounded.
type metrics struct {
	registry *prometheus.Registry
	checks   *prometheus.CounterVec
	lookups  *prometheus.HistogramVec
	policies prometheus.Histogram
}

// From 10 µs, where a decision lies, to 0.4 s, where a check is given up.
var seconds = prometheus.ExponentialBuckets(10e-6, 2, 16)

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keywicket_checks_total",
			Help: "Checks answered, by API, code and reason; both are empty for an allow, the API for an unknown one.",
		}, []string{"api", "code", "reason"}),
		lookups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keywicket_lookup_seconds", Help: "Time of a look-up, by outcome.", Buckets: seconds,
		}, []string{"outcome"}),
		policies: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keywicket_policy_seconds", Help: "Time of one evaluation of the policy.", Buckets: seconds,
		}),
	}
	m.registry.MustRegister(m.checks, m.lookups, m.policies, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(a authz.Answer) {
	m.checks.WithLabelValues(a.API, string(a.Code), string(a.Reason)).Inc()
}

// timedDirectory measures look-ups. An unknown token is an outcome like any other; only an error is not.
type timedDirectory struct {
	authz.Directory
	seconds *prometheus.HistogramVec
}

func (d timedDirectory) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	start := time.Now()
	found, err := d.Directory.Lookup(ctx, l)
	outcome := "found"
	switch {
	case err != nil:
		outcome = "error"
	case found.Denial != "":
		outcome = string(found.Denial)
	}
	d.seconds.WithLabelValues(outcome).Observe(time.Since(start).Seconds())
	return found, err
}

// timedPolicy measures evaluations.
type timedPolicy struct {
	authz.Policy
	seconds prometheus.Histogram
}

func (p timedPolicy) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	start := time.Now()
	d, err := p.Policy.Decide(ctx, in)
	p.seconds.Observe(time.Since(start).Seconds())
	return d, err
}
