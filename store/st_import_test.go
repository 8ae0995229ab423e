package store_test

import (
	"fmt"
	"iter"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// oldKey returns the n-th key that the product has issued.
func oldKey(format authz.CredentialFormat, n int) authz.Secret {
	return authz.Secret(fmt.Sprintf("%s%08d-abcdefghijklmnop", format.Prefix, n))
}

// oldLine returns a valid line for acme.
func oldLine(n int) store.ImportLine {
	return store.ImportLine{Number: n, Key: oldKey(vel, n), Name: "t", Scopes: []string{"issues:read"}, Workspace: "acme"}
}

func linesOf(lines ...store.ImportLine) iter.Seq2[store.ImportLine, error] {
	return func(yield func(store.ImportLine, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// oldLines returns valid lines from 1 to n, each of which change may modify.
func oldLines(n int, change func(*store.ImportLine)) iter.Seq2[store.ImportLine, error] {
	return func(yield func(store.ImportLine, error) bool) {
		for i := range n {
			l := oldLine(i + 1)
			if change != nil {
				change(&l)
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func velImport(lines iter.Seq2[store.ImportLine, error]) store.Import {
	return store.Import{Format: vel, API: "velocity", Lines: lines}
}
