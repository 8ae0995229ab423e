#!/usr/bin/env bash
# github.com/lib/pq 1.12.3, PostgreSQL 16 (PyPI pgserver 0.1.4): in a transaction, a query with a parameter keeps its snapshot after its
# rows are read and closed. So CREATE INDEX CONCURRENTLY in another session waits until this transaction ends.
#
# lib/pq sends a query with parameters through the extended protocol, and leaves the unnamed portal open. PostgreSQL keeps the portal's
# snapshot until the next query or the end of the transaction. The same query without a parameter leaves no portal. This matters if a
# program holds a transaction open, for example for an advisory lock, while another session builds an index concurrently.
#
# Seen, with the isolation level read committed, while the transaction is idle after its only query. With a parameter, backend_xmin is
# set, and CREATE INDEX CONCURRENTLY ends at a statement_timeout of 2 s. Without a parameter, backend_xmin is NULL and the index is built.
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
	"database/sql"
	"fmt"
	"os"

	_ "github.com/lib/pq"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	db, err := sql.Open("postgres", os.Args[1])
	check(err)
	_, err = db.Exec("CREATE TABLE t (n int)")
	check(err)
	try := func(name, query string, args ...any) {
		tx, err := db.Begin()
		check(err)
		var pid int
		check(tx.QueryRow(query, args...).Scan(&pid))
		var held bool
		check(db.QueryRow(fmt.Sprintf("SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %d", pid)).Scan(&held))
		other, err := sql.Open("postgres", os.Args[1]+" statement_timeout=2000")
		check(err)
		_, err = other.Exec("CREATE INDEX CONCURRENTLY " + name + " ON t (n)")
		fmt.Printf("%s: snapshot held %v, index built %v\n", name, held, err == nil)
		check(tx.Rollback())
		check(other.Close())
	}
	try("with_parameter", "SELECT pg_backend_pid() WHERE $1", true)
	try("without_parameter", "SELECT pg_backend_pid()")
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
tr '\\' '\n' < out | grep -oE 'with(out)?_parameter: .*'
if grep -q 'with_parameter: snapshot held true, index built false' out && grep -q 'without_parameter: snapshot held false, index built true' out; then
  echo "as described"
  exit 0
fi
cat out
echo "CHANGED"
exit 1
