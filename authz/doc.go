// Package authz is the core of keywicket. It finds the principal of a request and the workspace that the request targets, and has
// the policies decide. It does not depend on Envoy, Postgres or Rego: the packages for these are adapters, and import authz.
//
// To follow one request, read [Authorizer.Check] from top to bottom.
package authz
