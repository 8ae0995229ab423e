// Package registry is the part of the store that the operator uses (the policy administration point, PAP). A [Registry] creates,
// lists, changes and revokes objects such as tokens. A Registry does not retry failed queries.
//
// The package stores only the SHA-256 of a credential, and never the credential itself.
package registry
