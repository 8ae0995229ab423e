#!/usr/bin/env bash
# github.com/open-policy-agent/opa v1.22.2: with -b, `opa test` follows no symbolic link, and exits with 0 although it runs no test.
#
# Kubernetes mounts a ConfigMap as symbolic links: p_test.rego leads to ..data/p_test.rego, and ..data leads to a folder whose name
# contains the time. With --ignore '.*', which is usual because of such folders and of editors' folders, `opa test -b` runs no test of
# the mount, and prints nothing. Without --ignore, it also runs no test if the folder itself is a symbolic link. So a failing test is
# not noticed.
#
# Seen: without -b, the test fails through the links, and the exit status is 2. With -b, there is no output and the exit status is 0.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get -tool github.com/open-policy-agent/opa@v1.22.2 > /dev/null 2>&1
mkdir -p mount/..2030_01_31 folder
printf 'package p_test\n\ntest_a := false\n' | tee folder/p_test.rego > mount/..2030_01_31/p_test.rego
ln -s ..2030_01_31 mount/..data
ln -s ..data/p_test.rego mount/p_test.rego
ln -s folder link
go tool opa version | head -1
run() {
  status=0
  output=$(go tool opa test "$@" 2>&1) || status=$?
  echo "opa test $*: exit status $status, output: ${output:-none}"
}
run mount --ignore '.*'
[ "$status" = 2 ] || { echo CHANGED; exit 1; }
for bundle in "mount --ignore .*" link; do
  set -f
  run -b $bundle
  set +f
  [ "$status" = 0 ] && [ -z "$output" ] || { echo CHANGED; exit 1; }
done
run -b folder
[ "$status" = 2 ] || { echo CHANGED; exit 1; }
