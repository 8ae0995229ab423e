// Package feed reads the change log for the sidecar's cache. It also listens for notifications, and writes the heartbeats of this
// sidecar to the list of sidecars.
package feed
