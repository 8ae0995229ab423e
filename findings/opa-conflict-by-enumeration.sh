#!/usr/bin/env bash
# Open Policy Agent 1.22.2: if a rule has two values, OPA does not always report the conflict.
#
# The rule y has the values "a" and "b". The rule e needs only one match of y, so its evaluation can stop at the first value of y.
# If the body of y enumerates an array, OPA tries the other values too, and reports the conflict. If the body enumerates by walk,
# or by a variable in a reference to rules, OPA reports no conflict. An evaluation that needs all values of y reports the conflict
# for each form.
#
# Seen, for queries of e and of y: array: error, error; walk: true, error; rules: true, error.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding
go 1.25
require github.com/open-policy-agent/opa v1.22.2
MOD
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/rego"
)

func main() {
	for _, form := range []struct{ name, rules string }{
		{"array", `y := x if some x in ["a", "b"]`},
		{"walk", `y := x if { walk(["a", "b"], [_, x]); is_string(x) }`},
		{"rules", "p.q := \"a\"\np.r := \"b\"\ny := x if x := p[_]"},
	} {
		fmt.Print(form.name)
		for _, query := range []string{"data.demo.e", "data.demo.y"} {
			found, err := rego.New(rego.Query(query), rego.Module("demo.rego", "package demo\ne if y == \"a\"\n"+form.rules+"\n")).Eval(context.Background())
			switch {
			case err != nil && strings.Contains(err.Error(), "eval_conflict_error"):
				fmt.Print(" error")
			case err != nil:
				fmt.Print(" ", err)
			default:
				fmt.Print(" ", found[0].Expressions[0].Value)
			}
		}
		fmt.Println()
	}
}
GO
go mod tidy > /dev/null 2>&1
seen=$(go run .)
echo "$seen"
if [ "$seen" = "$(printf 'array error error\nwalk true error\nrules true error')" ]; then
  echo "as described"
  exit 0
fi
echo "CHANGED"
exit 1
