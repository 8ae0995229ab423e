// Package envoy is the adapter to Envoy: an ext_authz v3 gRPC server. request.go reads what Envoy asks, server.go has
// it decided, response.go writes the answer. Nothing in between knows HTTP status codes or headers of the answer, except
// those that an API's configuration declares.
package envoy
