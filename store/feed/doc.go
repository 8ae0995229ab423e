// Package feed reads the log of changes for the sidecar's cache. It also listens for notifications of changes, and keeps this sidecar
// in the list of sidecars.
package feed
