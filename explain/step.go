package explain

import (
	"slices"
	"strings"
)

// step is one change that helps to get a request allowed.
type step struct {
	effect effect
	text   string // instruction for the user of explain
}

// effect is what a step does to the rights of the sender.
type effect int

const (
	corrects effect = iota // changes the request
	restores               // gives back an access that the sender has lost
	widens                 // grants more than the sender had
)

// proposals returns the texts of the steps. If some of them restore an access and others widen it, the latter are a separate
// proposal: nobody should grant more rights by accident.
func proposals(steps []step) (fix, widen string) {
	apart := slices.ContainsFunc(steps, func(s step) bool { return s.effect == restores })
	var first, second []string
	for _, s := range steps {
		if apart && s.effect == widens {
			second = append(second, s.text)
		} else {
			first = append(first, s.text)
		}
	}
	return strings.Join(first, "; then "), strings.Join(second, "; then ")
}
