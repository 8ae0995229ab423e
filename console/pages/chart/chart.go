// Package chart computes bar charts of the requests per day. A template draws them as SVG.
package chart

import "github.com/keywicket/keywicket/store/console"

// Chart is a bar chart of the requests per day.
type Chart struct {
	Bars            []Bar
	Width, Height   int
	Allowed, Denied int64 // in the whole time
	Days            int
}

// Bar is one day. The denied requests are above the allowed ones.
type Bar struct {
	console.Day
	X, Width          int
	AllowedY, DeniedY float64
	AllowedH, DeniedH float64
}

// New returns the chart of days that follow one another.
func New(days []console.Day) Chart {
	const step, gap, height = 4, 1, 28
	c := Chart{Width: max(1, len(days)*step-gap), Height: height, Days: len(days)}
	var most int64
	for _, d := range days {
		most = max(most, d.Allowed+d.Denied)
	}
	for i, d := range days {
		c.Allowed += d.Allowed
		c.Denied += d.Denied
		b := Bar{Day: d, X: i * step, Width: step - gap}
		b.AllowedH, b.DeniedH = barHeight(d.Allowed, most, height), barHeight(d.Denied, most, height)
		b.AllowedH = min(b.AllowedH, height-b.DeniedH)
		b.AllowedY = height - b.AllowedH
		b.DeniedY = b.AllowedY - b.DeniedH
		c.Bars = append(c.Bars, b)
	}
	return c
}

// barHeight returns the height of a bar. A bar is visible unless the number is 0, and leaves place for another bar.
func barHeight(n, most int64, height float64) float64 {
	const least = 2
	if n == 0 {
		return 0
	}
	return min(max(least, height*float64(n)/float64(most)), height)
}
