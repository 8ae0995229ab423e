package chart_test

import (
	"math"
	"testing"
	"time"

	"github.com/keywicket/keywicket/console/pages/chart"
	"github.com/keywicket/keywicket/store/console"
)

// Every bar is within the chart, and each number except 0 is visible.
func TestBarsFit(t *testing.T) {
	today := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	for _, uses := range [][][2]int64{
		nil, {{0, 0}}, {{1, 0}}, {{0, 1}}, {{1, 1_000_000}, {1_000_000, 1}, {0, 0}}, {{5, 5}, {100, 0}}, {{math.MaxInt32, math.MaxInt32}},
	} {
		var days []console.Day
		var sum int64
		for i, u := range uses {
			days = append(days, console.Day{Day: today.AddDate(0, 0, i), Allowed: u[0], Denied: u[1]})
			sum += u[0] + u[1]
		}
		c := chart.New(days)
		if c.Allowed+c.Denied != sum || c.Days != len(days) || len(c.Bars) != len(days) {
			t.Errorf("%v: %+v", uses, c)
		}
		for i, b := range c.Bars {
			if b.X < 0 || b.X+b.Width > c.Width || b.AllowedH < 0 || b.DeniedH < 0 || b.DeniedY < 0 || b.AllowedY+b.AllowedH > float64(c.Height) ||
				b.DeniedY+b.DeniedH > b.AllowedY || (b.DeniedH > 0) != (uses[i][1] > 0) || (b.AllowedH > 0) != (uses[i][0] > 0) {
				t.Errorf("%v: the bar %+v", uses, b)
			}
		}
	}
}
