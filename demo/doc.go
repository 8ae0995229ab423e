// Package demo runs a complete keywicket: a real Postgres, the sidecar's binary, a real Envoy with the configuration of
// deploy/envoy, and upstreams that echo requests. `keywicket demo` and the end-to-end tests use this package.
//
// stack.go starts and stops the stack, seed.go fills the database, print.go prints requests, and tour.go sends them. The keys and
// requests come from package example. With a user's own policies, package own loads them.
package demo
