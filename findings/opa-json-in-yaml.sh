#!/usr/bin/env bash
# github.com/open-policy-agent/opa v1.22.2: a data.yaml that is written as JSON has other numbers as data than as a bundle.
#
# `opa eval -d DIR` and `opa eval -b DIR` read the same data.yaml differently if its text is valid JSON. With -d an integer of more
# than 64 bits is rounded to the nearest double. With -b it is exact. In ordinary YAML it is rounded by both; in a data.json it is
# exact by both. So a policy's tests can see another number than the bundle that is served.
#
# Seen: of 12345678901234567890123, -d gives 12345678901234567000000 or 1.2345678901234568e+22, and -b the number itself.
# Exit 0: as described. Exit 1: it has changed.
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
