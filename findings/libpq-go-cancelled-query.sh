#!/usr/bin/env bash
# github.com/lib/pq 1.12.3: if the context of a query is cancelled, lib/pq closes the connection unless the query was prepared.
#
# If the query was prepared (db.Prepare), the server cancels it and the connection goes back to the pool. If the same query with
# the same arguments is sent without db.Prepare, lib/pq marks the connection as bad and closes it. So with a time limit, each slow
# unprepared query costs a new connection, with TLS and login.
#
# Seen, with a pool of one connection and SELECT pg_sleep($1) with a limit of 0.2 s: after the prepared query, the pool still has
# its connection. The server process is the same. After the unprepared query, the pool has no connection.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pgserver==0.1.4
export GOFLAGS=-mod=mod GOWORK=off
go mod init example.test/finding > /dev/null 2>&1
go get github.com/lib/pq@v1.12.3 > /dev/null 2>&1
cat > main.go <<'GO'
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	db, err := sql.Open("postgres", os.Args[1])
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1)
	pid := func() (n int) {
		if err := db.QueryRow("SELECT pg_backend_pid()").Scan(&n); err != nil {
			panic(err)
		}
		return n
	}
	limited := func(f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if f(ctx) == nil {
			panic("it was not cancelled")
		}
		time.Sleep(200 * time.Millisecond)
	}
	sleep, err := db.Prepare("SELECT pg_sleep($1)")
	if err != nil {
		panic(err)
	}
	before := pid()
	limited(func(ctx context.Context) error { _, err := sleep.ExecContext(ctx, 10); return err })
	fmt.Println("prepared: connections", db.Stats().OpenConnections, "the same one", pid() == before)
	limited(func(ctx context.Context) error { _, err := db.ExecContext(ctx, "SELECT pg_sleep($1)", 10); return err })
	fmt.Println("unprepared: connections", db.Stats().OpenConnections, "the same one", pid() == before)
}
GO
go build -o try .
cat > try.py <<'PY'
import os, subprocess, sys, pgserver
server = pgserver.get_server(os.path.join(sys.argv[1], "data"), cleanup_mode="delete")
host = server.get_uri().split("host=")[1]
print(subprocess.run([sys.argv[1] + "/try", "host=" + host + " user=postgres dbname=postgres"], capture_output=True, text=True))
server.cleanup()
PY
venv/bin/python try.py "$dir" > out 2> /dev/null
tr '\\' '\n' < out | grep -oE '(un)?prepared: .*'
if grep -q "'prepared: connections 1 the same one true" out && grep -q 'unprepared: connections 0 the same one false' out; then
  echo "as described"
  exit 0
fi
cat out
echo "CHANGED"
exit 1
