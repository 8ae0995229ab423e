// Package policies contains the access rules and evaluates them.
//
// The rules are Rego files (keywicket/). The tables (apis/NAME/data.yaml) and the other data that rules read
// (facts/NAME/data.yaml) are data files. A policy author does not need Go. The tests are beside the rules, and `opa test` can
// run them. docs/policies.md is the guide for policy authors.
//
// The Go code checks the tables (table/), and runs the tests as `opa test` does (source/). It compiles the rules so that the
// time of a decision does not grow with the tables. It also remembers decisions. The key of a remembered decision consists of
// the input values that the rules read (analysis/).
package policies

import "embed"

// Builtin is the policy in the binary: the rules, the tables of two APIs, and the schema of tables.
//
//go:embed keywicket apis table.schema
var Builtin embed.FS
