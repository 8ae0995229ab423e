// Package directory is the part of the store that the sidecar uses (the policy information point, PIP). A [Directory] answers
// look-ups within a time limit. For each kind of credential, it has one prepared query, which uses indexes, and it caches the
// answers. A sidecar can open a Directory and start even while the database is down. A Directory also counts the
// requests of each token.
package directory
