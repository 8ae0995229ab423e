#!/usr/bin/env bash
# github.com/open-policy-agent/opa v1.22.2: `opa test` fails a test case whose name is a constant, even if the case is true.
#
# OPA calls a test with a name in brackets a data-driven test: test_a[name] if { some name in names; … }. With a constant in place
# of the variable, test_a["one"] if { true }, the rule is valid Rego: the value of data.p_test.test_a is {"one": true}. But `opa test`
# reports a failure without a case, an expression or a reason. The same rule as test_a["one"] := true passes.
#
# Seen: test_constant fails. test_variable and test_assigned pass. `opa eval` shows that the value of test_constant is {"one": true}.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get -tool github.com/open-policy-agent/opa@v1.22.2 > /dev/null 2>&1
mkdir tests
cat > tests/p_test.rego <<'REGO'
package p_test

test_constant["one"] if {
	true
}

test_variable[name] if {
	some name in ["one"]
	true
}

test_assigned["one"] := true
REGO
go tool opa version | sed -n 1p
go tool opa eval --format raw -d tests data.p_test.test_constant
status=0
go tool opa test -v tests > out || status=$?
grep -E '^data|^  one' out | sort -u
grep -q '^data.p_test.test_constant: FAIL' out || { echo "CHANGED: the constant case passes"; exit 1; }
grep -q '^data.p_test.test_variable: PASS' out || { echo "CHANGED: the variable case fails"; exit 1; }
grep -q '^data.p_test.test_assigned: PASS' out || { echo "CHANGED: the assigned case fails"; exit 1; }
[ "$status" = 2 ] || { echo "CHANGED: exit status $status"; exit 1; }
echo "as described"
