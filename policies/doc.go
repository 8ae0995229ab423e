// Package policies holds the rules of access, and runs them.
//
// The rules are plain Rego (keywicket/), the tables are plain data (apis/NAME/data.yaml), and so is what else the rules
// read (facts/NAME/data.yaml): a policy author needs no Go, and any stock opa runs the tests beside them.
// docs/policies.md is written for that reader. The Go here checks the tables, runs the tests as stock opa does, and
// compiles the rules so that the time of a decision does not grow with the tables.
package policies

import "embed"

// Builtin is the policy that the binary carries: that of the two APIs of the seeds, with the schema that their tables name.
//
//go:embed keywicket apis table.schema
var Builtin embed.FS
