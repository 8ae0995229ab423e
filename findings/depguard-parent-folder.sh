#!/usr/bin/env bash
# depguard v2.2.1: the name of a folder above the module decides which import rules apply.
#
# A rule's `files` are globs, which depguard compares with the absolute path of each file. So a pattern such as "!**/cmd/**" also
# excludes every file of a checkout below a folder with the name cmd. In such a checkout, the rule applies to no file, and
# depguard reports no forbidden import. It does not warn. In a checkout below another folder, depguard reports the same code.
#
# Seen: below the folder "plain", depguard reports the forbidden import. Below the folder "cmd", it does not.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export GOFLAGS=-mod=mod GOWORK=off GOBIN="$dir/bin"
go install github.com/OpenPeeDeeP/depguard/v2/cmd/depguard@v2.2.1 > /dev/null 2>&1
for parent in plain cmd; do
  mkdir -p "$dir/$parent/module"
  cd "$dir/$parent/module"
  go mod init example.test/module > /dev/null 2>&1
  cat > .depguard.json <<'JSON'
{"no-log": {"files": ["$all", "!**/cmd/**"], "listMode": "Lax", "deny": {"log$": "use log/slog"}}}
JSON
  cat > main.go <<'GO'
package main

import "log"

func main() { log.Println("hello") }
GO
  if "$dir/bin/depguard" ./... > "$dir/$parent.txt" 2>&1; then status=0; else status=$?; fi
  echo "depguard v2.2.1 below the folder $parent: exit $status, $(grep -c 'not allowed' "$dir/$parent.txt" || true) forbidden imports"
done
grep -q 'not allowed' "$dir/plain.txt" && ! grep -q 'not allowed' "$dir/cmd.txt" || { echo CHANGED; cat "$dir"/*.txt; exit 1; }
