// Package fleet runs many sidecars against one Postgres: many instances of the unmodified package store/directory in one process. Its
// tests assert that every sidecar reads every change. `make fleet` measures the cost.
package fleet

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/testmain"
)

var server *postgres.Server

// maxConnections is enough for 1,000 sidecars: each sidecar has three connections, and the test opens one more connection for
// each sidecar. A new connection may open before an old connection has closed.
const maxConnections = 4500

const (
	poolSize    = 40   // connections of a pooler to Postgres
	poolClients = 4000 // connections of sidecars to a pooler; under load, 250 sidecars have ten connections each
)

func TestMain(m *testing.M) {
	testmain.Exit(run(m))
}

func run(m *testing.M) (code int, err error) {
	if err := raiseFileLimit(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server, err = postgres.Start(ctx, postgres.Config{Settings: map[string]string{
		"max_connections": fmt.Sprint(maxConnections),
	}})
	if err != nil {
		return 0, err
	}
	defer func() {
		if stop := server.Close(); err == nil {
			err = stop
		}
	}()
	return m.Run(), nil
}

// raiseFileLimit raises the limit of open files to its maximum, for this process and a pooler, because each connection is a
// file.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
