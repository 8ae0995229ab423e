// Package feed reads the change log for the sidecar's cache. It also listens for notifications, and writes this sidecar's
// heartbeats to the list of sidecars.
package feed
