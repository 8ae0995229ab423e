// Package directory is the part of the store that the sidecar uses (the policy information point, PIP). A [Directory] answers
// look-ups within a time limit. It uses a cache and, for each kind of credential, one prepared query that uses indexes. A
// Directory can be opened even while the database is down, so a sidecar can always start. It also records which tokens are used.
package directory
