// Package envoy is the adapter to Envoy: an ext_authz v3 gRPC server. codec.go connects it to gRPC, request.go reads the
// CheckRequest from its wire format (wire.go), server.go calls the authorizer, and response.go writes the CheckResponse. denied.go
// has the status, the body and the messages of a denial. The HTTP statuses and the headers of a response are in response.go and
// denied.go, except those that an API declares.
package envoy
