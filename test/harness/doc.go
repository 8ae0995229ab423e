// Package harness contains what end-to-end tests share: a deployment of the real binary, a real Envoy and a real Postgres,
// requests through Envoy, the operator's commands, and waiting. Only tests import it.
package harness
