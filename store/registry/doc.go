// Package registry is the part of the store that the operator uses (the policy administration point, PAP). A [Registry] creates,
// lists, changes and revokes objects such as tokens. It does not retry failed queries.
//
// The package never stores a credential. It stores only the SHA-256 of the credential.
package registry
