#!/usr/bin/env bash
# github.com/open-policy-agent/opa v1.22.2: `opa test` reports a test with a dotted name as passed, even if its value is false.
#
# A rule `test_a := false` fails, and a test case `test_b["case"] := false` fails too. `opa test` also finds and runs the rule
# `group.test_c := false`, but this rule passes. If such a rule is undefined, it fails, as it should. So a test of the form
# `group.test_c := x == y` never fails.
#
# Seen: test_a and test_b fail, and the exit status is 2. group.test_c passes, and the exit status is 0.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get -tool github.com/open-policy-agent/opa@v1.22.2 > /dev/null 2>&1
mkdir plain grouped
printf 'package p_test\n\ntest_a := false\n\ntest_b["case"] := false\n' > plain/p_test.rego
printf 'package p_test\n\ngroup.test_c := 1 == 2\n' > grouped/p_test.rego
go tool opa version | head -1
plain=0
go tool opa test plain || plain=$?
grouped=0
go tool opa test -v grouped || grouped=$?
echo "exit status: plain $plain, grouped $grouped"
[ "$plain" != 0 ] && [ "$grouped" = 0 ] || { echo CHANGED; exit 1; }
