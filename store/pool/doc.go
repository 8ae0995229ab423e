// Package pool has the connections of a sidecar to the one current database server: it opens them ahead of need, and drops those to
// other servers after a failover.
package pool
