package tokenimport

import (
	"fmt"
	"iter"
	"slices"
)

// Scopes validates the scopes of lines. This check is separate from the function Run, because Run does not know the API's
// scopes.
type Scopes struct {
	Valid        []string // all scopes that a token of the import may have
	FoundInvalid bool     // true if a line had no scopes, or a scope that is not in Valid
}

// Check returns the parsed lines after it has validated their scopes.
func (s *Scopes) Check(parsed iter.Seq2[Line, error]) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for line, err := range parsed {
			if err == nil && line.Problem == "" {
				line.Scopes, line.Problem = s.unique(line.Scopes)
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// unique returns the scopes without duplicates, or a description of the problem.
func (s *Scopes) unique(scopeNames []string) ([]string, string) {
	if len(scopeNames) == 0 {
		s.FoundInvalid = true
		return nil, "the line has no scopes"
	}
	scopes := make([]string, 0, len(scopeNames))
	for i, scope := range scopeNames {
		if !slices.Contains(s.Valid, scope) {
			s.FoundInvalid = true
			return nil, fmt.Sprintf("scope %d is not a scope for this kind of token", i+1)
		}
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes, ""
}
