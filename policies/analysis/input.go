package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/fault"
)

// CheckInput returns an error with a line for each reference to a key that the input document never has. Such a reference is
// undefined, so a denial that reads it never applies. The rules may add keys with `with`.
func CheckInput(references []Reference) error {
	var all fault.Errors
	known := slices.Clone(documented)
	for _, r := range references {
		if r.replaces {
			known = append(known, r.Ref)
		}
	}
	for _, r := range references {
		if !r.Ref.HasPrefix(ast.InputRootRef) {
			continue
		}
		for n := 2; n <= len(r.Ref); n++ {
			if overlaps(r.Ref[:n], known) {
				continue
			}
			f := fault.Fault{Text: fmt.Sprintf("%s has no key %s; its keys are %s", r.Ref[:n-1], constant(r.Ref[n-1]), strings.Join(keysBelow(r.Ref[:n-1]), ", "))}
			if l := cmp.Or(r.Ref[0].Location, r.location); l != nil {
				f.File, f.Line = l.File, l.Row
			}
			if !slices.Contains(all, f) {
				all = append(all, f)
			}
			break
		}
	}
	return all.Err()
}

// documented contains the references of the parts that are in the input document, without the principal as a whole.
var documented = func() (refs []ast.Ref) {
	for p := range document.NumberOfParts {
		switch p {
		case document.InputRow, document.PrincipalNeeds, document.InputPrincipal:
		default:
			refs = append(refs, p.Ref())
		}
	}
	return refs
}()

// keysBelow returns the keys of an object in the input document.
func keysBelow(object ast.Ref) (keys []string) {
	for _, part := range documented {
		if len(part) > len(object) && part.HasPrefix(object) {
			keys = append(keys, constant(part[len(object)]))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
