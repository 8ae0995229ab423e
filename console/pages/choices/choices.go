// Package choices groups the scopes of a form by their resource: the part of the name before the colon.
package choices

import "strings"

// Level are the scopes of a level, in groups.
type Level struct {
	Account bool // the scopes are for the user's account, not for workspaces
	Groups  []Group
}

// Group are the scopes of a resource.
type Group struct {
	Resource string
	Scopes   []Scope
}

// Scope is a scope that the user can choose.
type Scope struct {
	Name, Description string
	Checked           bool
}

// Add adds a scope to the group of its resource. The scopes must be sorted.
func (l *Level) Add(s Scope) {
	resource, _, _ := strings.Cut(s.Name, ":")
	if n := len(l.Groups); n == 0 || l.Groups[n-1].Resource != resource {
		l.Groups = append(l.Groups, Group{Resource: resource})
	}
	group := &l.Groups[len(l.Groups)-1]
	group.Scopes = append(group.Scopes, s)
}
