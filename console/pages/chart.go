package pages

import (
	"fmt"
	"time"

	"github.com/keywicket/keywicket/console/settings"
)

// chart is a bar chart of the requests per day. The template _chart.html draws it.
type chart struct {
	Bars            []bar
	Width, Height   int
	Allowed, Denied int64 // in the whole time
	Days            int
}

// bar is one day. The denied requests are above the allowed ones.
type bar struct {
	X, Width          int
	AllowedY, DeniedY float64
	AllowedH, DeniedH float64
	Text              string
}

// newChart returns the chart of the last days. A day without use has an empty bar.
func newChart(days []settings.Day, now time.Time, n int) chart {
	const step, gap, height = 5, 1, 28
	const day = 24 * time.Hour
	c := chart{Width: n*step - gap, Height: height, Days: n}
	first := now.UTC().Truncate(day).Add(-time.Duration(n-1) * day)
	use := make([]settings.Day, n)
	var most int64
	for _, d := range days {
		if i := int(d.Date.UTC().Sub(first) / day); !d.Date.Before(first) && i < n {
			use[i].Allowed += d.Allowed
			use[i].Denied += d.Denied
			most = max(most, use[i].Allowed+use[i].Denied)
		}
	}
	for i, d := range use {
		c.Allowed += d.Allowed
		c.Denied += d.Denied
		b := bar{X: i * step, Width: step - gap, Text: fmt.Sprintf("%s: %d allowed, %d denied", first.Add(time.Duration(i)*day).Format("2 Jan"), d.Allowed, d.Denied)}
		b.AllowedH, b.DeniedH = barHeight(d.Allowed, most, height), barHeight(d.Denied, most, height)
		b.AllowedH = min(b.AllowedH, height-b.DeniedH)
		b.AllowedY = height - b.AllowedH
		b.DeniedY = b.AllowedY - b.DeniedH
		c.Bars = append(c.Bars, b)
	}
	return c
}

// barHeight returns the height of a bar. Every number of requests except 0 is visible.
func barHeight(n, most int64, height float64) float64 {
	if n == 0 {
		return 0
	}
	return max(2, height*float64(n)/float64(most))
}
