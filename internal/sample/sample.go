// Package sample makes comparisons of many cases shorter with -short.
package sample

import "testing"

// Part returns 7 with -short, otherwise 1. A comparison takes only one of Part cases. 7 has no common factor with the numbers of
// kinds, roles and paths, so the selected cases differ in all of these.
func Part() int {
	if testing.Short() {
		return 7
	}
	return 1
}
