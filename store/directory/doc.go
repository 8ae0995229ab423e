// Package directory is the sidecar's part of the store (the PIP). A [Directory] answers look-ups within a deadline, with a cache
// and one prepared query that uses indexes. It can be opened even while the database is down, so that a sidecar can start. It
// also records which tokens are used.
package directory
