// Package registry is the operator's side of the store (the PAP). A [Registry] creates, lists, changes and revokes, and reports errors
// at once.
//
// It never stores a credential itself, only its SHA-256.
package registry
