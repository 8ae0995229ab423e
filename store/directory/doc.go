// Package directory is the sidecar's side of the store (the PIP). A [Directory] answers look-ups within a deadline, with one prepared
// query that uses indexes, and through a cache. It opens even while the database is down, because a sidecar must be able to start then.
// It also writes which tokens are used.
package directory
