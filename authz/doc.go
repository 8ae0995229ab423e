// Package authz is the domain of keywicket: who presents a request, which workspace it targets, and whether the
// policies let it in. It knows neither Envoy, nor Postgres, nor Rego; those are adapters, and import it.
//
// Read one request's way in [Authorizer.Check], from top to bottom.
package authz
