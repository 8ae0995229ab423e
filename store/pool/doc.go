// Package pool manages a sidecar's connections to the current database server. It opens connections in the background. After a
// failover, it closes the connections to other servers.
package pool
