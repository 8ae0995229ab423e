// Package program builds the programs that tests run. The test packages of `go test ./...` run at the same time, and share
// the programs.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/keywicket/keywicket/internal/modulefile"
	"github.com/keywicket/keywicket/internal/race"
)

// Keywicket returns the path of keywicket without the race detector. The first call of a process builds it.
var Keywicket = sync.OnceValues(func() (string, error) { return build("plain/keywicket", ourCommand) })

// RaceKeywicket returns the path of keywicket, with the race detector if the tests have it. The first call of a process builds it.
var RaceKeywicket = sync.OnceValues(func() (string, error) {
	if !race.Enabled {
		return Keywicket()
	}
	return build("race/keywicket", ourCommand, "-race")
})

// OPA returns the path of the official opa. The first call of a process builds it.
var OPA = sync.OnceValues(func() (string, error) {
	return build("opa", "github.com/open-policy-agent/opa", "-modfile=tools/opa.mod")
})

const ourCommand = "./cmd/keywicket"

// build builds a program in bin/test of this checkout, so two checkouts do not share a file. `go build` does not link again if
// the file is up to date. `go build` replaces an outdated file with a new file, so running processes keep the old file.
func build(name, program string, flags ...string) (path string, err error) {
	module, ok := modulefile.Find("go.mod")
	if !ok {
		return "", fmt.Errorf("build %s: no go.mod in the working folder or above it", name)
	}
	root := filepath.Dir(module)
	path = filepath.Join(root, "bin", "test", filepath.FromSlash(name))
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", path, program)...)
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// lock waits until no other process has the lock. Without the lock, several processes would link the same file.
func lock(name string) (unlock func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file.Close, nil // closing the file unlocks it
}
