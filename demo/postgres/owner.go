package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/keywicket/keywicket/demo/process"
)

// Owner returns the user that the server runs as, or nil for the user of this process. Postgres refuses to run as root. So if this
// process runs as root, the result is the user "postgres", or else the user "nobody".
func Owner() (*process.User, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("postgres: the uid of %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("postgres: the gid of %s: %w", name, err)
		}
		return &process.User{UID: uint32(uid), GID: uint32(gid)}, nil
	}
	return nil, errors.New("postgres: Postgres refuses to run as root, and neither the user \"postgres\" nor the user \"nobody\" exists: " +
		"start this program as an ordinary user")
}

// home creates the server's own folder, which only the server's user can read.
func home(parent string, user *process.User) (string, error) {
	parent, err := filepath.Abs(cmp.Or(parent, os.TempDir()))
	if err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	if user != nil {
		if err := checkReachable(parent); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(parent, "keywicket-postgres-")
	if err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	if err := chown(dir, user); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// checkReachable returns an error if another user cannot reach the folder, for example a folder below root's home. Postgres' own
// error contains neither the folder that blocks access nor the remedy.
func checkReachable(dir string) error {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("postgres: this process runs as root, so the server runs as another user, who cannot enter %s: "+
				"set TMPDIR to a folder that every user can enter, or unset TMPDIR to use the system's temporary folder", dir)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

func chown(path string, user *process.User) error {
	if user == nil {
		return nil
	}
	if err := os.Chown(path, int(user.UID), int(user.GID)); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}
