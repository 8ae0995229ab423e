// Package registry is the operator's part of the store (the PAP). A [Registry] creates, lists, changes and revokes objects such
// as tokens, and returns errors immediately.
//
// It never stores a credential itself, only its SHA-256.
package registry
