#!/usr/bin/env bash
# github.com/lib/pq 1.12.3: the values of a service file override the connection string, although the documentation says the
# opposite.
#
# The documentation has the order of psql: "a service overrides any value from the environment, which in turn gets overridden by
# the same parameter in the connection string". But NewConfig applies the service file last. If PGSERVICE is set in the
# environment, a program with a URL connects to the host of the service file.
#
# Seen: the URL has the host url.example and the database url_db. The service file has the host service.example and no database.
# The configuration has the host service.example and the database url_db.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding
go 1.24
require github.com/lib/pq v1.12.3
MOD
cat > main.go <<'GO'
package main

import (
	"fmt"

	"github.com/lib/pq"
)

func main() {
	c, err := pq.NewConfig("postgres://me@url.example/url_db")
	fmt.Println(c.Host, c.Database, err)
}
GO
printf '[reports]\nhost=service.example\n' > services.conf
go mod tidy > /dev/null 2>&1
seen=$(PGSERVICE=reports PGSERVICEFILE=services.conf go run .)
without=$(go run .)
echo "with the service: $seen"
echo "without it: $without"
if [ "$seen" = "service.example url_db <nil>" ] && [ "$without" = "url.example url_db <nil>" ]; then
  echo "as described"
  exit 0
fi
echo "CHANGED"
exit 1
