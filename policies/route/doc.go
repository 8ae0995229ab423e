// Package route finds the row of a table that a request addresses. It knows the patterns of paths and the order of rows,
// and nothing else of a policy. policies/keywicket/route.rego says the same in Rego, one row after the other. The index
// here takes the same time for a large table as for a small one.
package route
