// Package route finds the row of a table that a request addresses. It implements the patterns of paths and the order of rows, and
// no other part of a policy. policies/keywicket/route.rego implements the same in Rego, and tests one row after the other. The
// index here takes the same time for a large table as for a small one.
package route
