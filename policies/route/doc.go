// Package route finds the row of a table that a request addresses. It implements the patterns of paths and the precedence of
// rows, and no other part of a policy. policies/keywicket/route.rego finds the same row with Rego rules, which compare the
// request with every row. The index in this package takes the same time for a large table as for a small table.
package route
