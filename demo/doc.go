// Package demo runs a complete keywicket: a real Postgres, the sidecar's binary, a real Envoy with the configuration of
// deploy/envoy, and two upstreams that echo requests. `keywicket demo` and the end-to-end tests use this package.
//
// stack.go starts and stops the stack, seed.go fills the database, and tour.go sends requests through the stack.
package demo
