// Package sample makes long comparisons and loads shorter with -short.
package sample

import (
	"testing"
	"time"
)

// Interval returns 7 with -short, and 1 without it. A comparison runs one of every Interval cases. 7 has no common factor with the
// numbers of kinds, roles and paths, so the selected cases differ in all of these.
func Interval() int {
	if testing.Short() {
		return 7
	}
	return 1
}

// Duration returns the duration of a load: d, or half of d with -short.
func Duration(d time.Duration) time.Duration {
	if testing.Short() {
		return d / 2
	}
	return d
}
