// Package envoy is the adapter to Envoy: an ext_authz v3 gRPC server. codec.go connects it to gRPC, request.go reads the
// CheckRequest from its wire format (wire.go), server.go calls the authorizer, and response.go writes the CheckResponse. Only
// response.go defines HTTP statuses and headers of a response, except those that an API declares.
package envoy
