// Package demo is keywicket whole: a real Postgres, the sidecar's own binary, a real Envoy with the configuration of
// deploy/envoy, and two upstreams that echo. `keywicket demo` runs it for people, the end-to-end tests for themselves.
//
// stack.go starts and stops it, seed.go fills the database, tour.go sends requests through it.
package demo
