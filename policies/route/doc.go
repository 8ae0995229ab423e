// Package route finds the row of a table that a request addresses. It implements the patterns of paths and the precedence of rows,
// and no other part of a policy. policies/keywicket/route.rego implements the same in Rego, but tests each row. The index here
// takes the same time for a large table as for a small one.
package route
