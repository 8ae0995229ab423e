package storetest

import (
	"fmt"
	"iter"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/tokenimport"
)

// ProductKey returns the n-th of the keys that a product issued before it used keywicket.
func ProductKey(format authz.CredentialFormat, n int) authz.Secret {
	return authz.Secret(fmt.Sprintf("%s%08d-abcdefghijklmnop", format.Prefix, n))
}

// ProductLine returns a valid line with the n-th ProductKey, which belongs to the workspace acme.
func ProductLine(n int) tokenimport.Line {
	return tokenimport.Line{Number: n, Key: ProductKey(Vel, n), Name: "t", Scopes: []string{"issues:read"}, Workspace: "acme"}
}

// LinesOf returns an iterator over the lines.
func LinesOf(lines ...tokenimport.Line) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// ProductLines returns the valid lines 1 to n. The function change may modify each line; nil changes nothing.
func ProductLines(n int, change func(*tokenimport.Line)) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
		for i := range n {
			l := ProductLine(i + 1)
			if change != nil {
				change(&l)
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// VelImport returns an import of workspace keys.
func VelImport(lines iter.Seq2[tokenimport.Line, error]) tokenimport.Import {
	return tokenimport.Import{Format: Vel, API: "velocity", Lines: lines}
}
