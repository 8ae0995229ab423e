// Package envoy is the adapter to Envoy: an ext_authz v3 gRPC server. wire.go reads what Envoy asks, server.go has it
// decided, response.go writes the answer; codec.go puts them behind gRPC. Only response.go knows HTTP status codes and
// headers of the answer, except those that an API declares.
package envoy
