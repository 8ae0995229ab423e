// Package feed reads the change log for the sidecar's cache. It also listens for notifications, and keeps this sidecar in the
// list of sidecars.
package feed
