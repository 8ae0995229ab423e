// Package authz is the core of keywicket. A policy enforcement point (PEP), such as Envoy, reports a [Request]. An [Authorizer]
// finds the [Principal] and the [Workspace] of the request, asks the policy for a decision, and returns an [Answer]. The PEP
// enforces the answer.
//
// An Authorizer needs three adapters: a [Directory] of credentials and workspaces, a [Policy], and [Sessions] if an API accepts
// session tokens. An [API] configures its requests and the credentials that the API accepts. The package does not depend on
// Envoy, Postgres or Rego: the packages for Envoy, Postgres and Rego are adapters, and import authz.
//
// To follow one request, read [Authorizer.Check] from top to bottom. Some comments cite a heading of the API document of
// VelaFlows or Velocity. VelaFlows and Velocity are two products for whose APIs keywicket has policies. Their API documents are
// not in this repository.
package authz
