// Package pool manages a sidecar's connections to the current database server. It opens connections in advance, and closes
// connections to other servers after a failover.
package pool
