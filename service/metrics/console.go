package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/registry"
)

// Console contains the metrics of the console.
type Console struct {
	registry *prometheus.Registry
	notices  noticeMetrics
}

// NewConsole returns the metrics of a console. The metrics include the statistics of the session verifier v.
func NewConsole(v *session.Verifier) *Console {
	m := &Console{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(&m.notices, sessionMetrics{v}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler returns the handler of /metrics.
func (m *Console) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// The function that counts the notices reads all tokens, so it runs rarely, and never during a scrape.
const (
	noticesInterval = 10 * time.Minute
	noticesTimeout  = time.Minute
)

// CountNotices counts the tokens that need attention, immediately and then every 10 minutes, until the context is canceled. The
// parameter `notices` is [registry.Registry.Notices] of the console's database. If it fails, the metrics keep the last numbers, and
// their age grows.
func (m *Console) CountNotices(ctx context.Context, notices func(context.Context) ([]registry.Notice, error), log *slog.Logger) {
	tick := time.NewTicker(noticesInterval)
	defer tick.Stop()
	for {
		started := time.Now()
		counting, cancel := context.WithTimeout(ctx, noticesTimeout)
		counted, err := notices(counting)
		cancel()
		switch {
		case err == nil:
			m.notices.last.Store(&countedNotices{started, counted})
		case ctx.Err() == nil:
			log.Warn("tokens that need attention could not be counted; they will be counted at the next attempt", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// countedNotices is a result of the function that counts notices.
type countedNotices struct {
	at      time.Time
	notices []registry.Notice
}

// noticeMetrics is a collector of the last counted notices.
type noticeMetrics struct {
	last atomic.Pointer[countedNotices]
}

var (
	noticed = prometheus.NewDesc("keywicket_tokens_noticed",
		"Active tokens that need attention: expiring (within 14 days), unused (for 90 days), or creator_left (the creator is not a member of the workspace, whose leaver rule is not keep).",
		[]string{"api", "notice"}, nil)
	noticedAge = prometheus.NewDesc("keywicket_tokens_noticed_age_seconds",
		"Time since the tokens that need attention were counted.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (c *noticeMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- noticed
	to <- noticedAge
}

// Collect implements [prometheus.Collector].
func (c *noticeMetrics) Collect(to chan<- prometheus.Metric) {
	last := c.last.Load()
	if last == nil {
		return
	}
	for _, n := range last.notices {
		to <- prometheus.MustNewConstMetric(noticed, prometheus.GaugeValue, float64(n.Tokens), n.API, string(n.Kind))
	}
	to <- prometheus.MustNewConstMetric(noticedAge, prometheus.GaugeValue, time.Since(last.at).Seconds())
}
