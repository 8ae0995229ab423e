#!/usr/bin/env bash
# github.com/open-policy-agent/opa v1.22.2: if a data.yaml contains JSON, `opa eval -d` and `opa eval -b` read different numbers.
#
# If the text of data.yaml is valid JSON, `opa eval -d DIR` rounds an integer of more than 64 bits to the nearest double.
# But `opa eval -b DIR` keeps the exact integer. In ordinary YAML, both round it. In a data.json, both keep it. So the tests of a policy
# can use another number than the bundle that is served.
#
# Seen, for 12345678901234567890123: -d prints 12345678901234567000000 or 1.2345678901234568e+22. -b prints the exact number.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get -tool github.com/open-policy-agent/opa@v1.22.2 > /dev/null 2>&1
mkdir data
printf '{"n": 12345678901234567890123}\n' > data/data.yaml
go tool opa version | head -1
plain=$(go tool opa eval -d data -f raw data.n)
bundle=$(go tool opa eval -b data -f raw data.n)
echo "-d $plain, -b $bundle"
[ "$plain" != "$bundle" ] && [ "$bundle" = 12345678901234567890123 ] || { echo CHANGED; exit 1; }
