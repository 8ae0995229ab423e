// Command fetch-postgres installs the programs of a Postgres version into a folder: go run ./tools/fetch-postgres 14 FOLDER
package main

import (
	"fmt"
	"os"

	"github.com/keywicket/keywicket/demo/postgres"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: fetch-postgres VERSION FOLDER")
		os.Exit(2)
	}
	if err := postgres.Fetch(os.Args[1], os.Args[2], nil); err != nil {
		fmt.Fprintln(os.Stderr, "fetch-postgres:", err)
		os.Exit(1)
	}
}
