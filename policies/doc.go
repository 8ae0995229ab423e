// Package policies contains the access rules and evaluates them.
//
// The rules are plain Rego (keywicket/). The tables (apis/NAME/data.yaml) and the other data that rules read
// (facts/NAME/data.yaml) are plain data. A policy author needs no knowledge of Go. The stock opa can run the tests, which are
// beside the rules. docs/policies.md is the guide for policy authors.
//
// The Go code checks the tables (table/), and runs the tests as the stock opa does (source/). It compiles the rules so that the
// time of a decision does not grow with the tables. It remembers decisions by the values of the input that the rules read
// (analysis/).
package policies

import "embed"

// Builtin is the policy in the binary: the rules, the tables of two APIs, and the schema of tables.
//
//go:embed keywicket apis table.schema
var Builtin embed.FS
