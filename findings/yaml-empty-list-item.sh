#!/usr/bin/env bash
# go.yaml.in/yaml/v3 v3.0.6: if a list is decoded into strings or numbers, an empty item is left out.
#
# A list with an empty item (a dash alone, ~ or null) decodes into []string or []int without the item. The list is shorter, and
# later items move up. There is no error, even with KnownFields(true). A list that decodes into []any keeps the item, as nil. So a
# setting that is left empty by mistake is the same as a setting that was never written.
#
# Seen: [a, ~, b] has the length 2 as []string, [1, ~, 3] has the length 2 as []int, and both have the length 3 as []any.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get go.yaml.in/yaml/v3@v3.0.6 > /dev/null 2>&1
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	var v struct {
		Texts   []string `yaml:"texts"`
		Numbers []int    `yaml:"numbers"`
		Any     []any    `yaml:"any"`
	}
	decoder := yaml.NewDecoder(strings.NewReader("texts: [a, ~, b]\nnumbers: [1, ~, 3]\nany: [a, ~, b]\n"))
	decoder.KnownFields(true)
	err := decoder.Decode(&v)
	fmt.Printf("go.yaml.in/yaml/v3 v3.0.6: %q %v %v, error %v\n", v.Texts, v.Numbers, v.Any, err)
	if err != nil || len(v.Texts) != 2 || v.Texts[1] != "b" || len(v.Numbers) != 2 || len(v.Any) != 3 {
		fmt.Println("CHANGED")
		os.Exit(1)
	}
}
GO
go run .
