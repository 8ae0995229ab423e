package postgres

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// downloadVersion is the version that download fetches.
const downloadVersion = embedded.V18

// download fetches a server into the user's cache folder and returns its bin folder. If there is no cache folder, for example
// because HOME is empty, it uses the server's temporary folder (the parameter `home`), which Close removes. The next start then
// downloads the server again.
func download(home string, log io.Writer) (string, error) {
	cache := filepath.Join(home, "cache")
	if dir, err := os.UserCacheDir(); err == nil {
		if dir = filepath.Join(dir, "keywicket"); os.MkdirAll(dir, 0o755) == nil {
			cache = dir
		}
	}
	target := filepath.Join(cache, "postgres-"+string(downloadVersion))
	bin := filepath.Join(target, "bin")
	if complete(bin) {
		return bin, nil
	}
	if err := fetch(downloadVersion, target, log); err != nil {
		return "", err
	}
	return bin, nil
}

// Fetch downloads the programs of the major version, such as 14, into the subfolder bin of the folder. If the programs are already
// there, Fetch does nothing.
func Fetch(major, folder string, log io.Writer) error {
	const lastOf13 = embedded.PostgresVersion("13.23.0")
	for _, version := range []embedded.PostgresVersion{lastOf13, embedded.V14, embedded.V15, embedded.V16, embedded.V17, embedded.V18} {
		if !strings.HasPrefix(string(version), major+".") {
			continue
		}
		if complete(filepath.Join(folder, "bin")) {
			return nil
		}
		return fetch(version, folder, log)
	}
	return fmt.Errorf("postgres: cannot fetch Postgres %q: choose a version from 13 to 18", major)
}

func fetch(version embedded.PostgresVersion, target string, log io.Writer) error {
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "download-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()

	// The library has no function that only downloads. So this function starts a server once and discards its data. It moves the
	// programs to the target in one step, so that another process sees either all programs or none, even after an interruption.
	port, err := freePort()
	if err != nil {
		return err
	}
	if log == nil {
		log = io.Discard
	}
	programs := filepath.Join(work, "programs")
	server := embedded.NewDatabase(embedded.DefaultConfig().Version(version).Port(uint32(port)).Locale("C").
		CachePath(filepath.Join(work, "archive")).RuntimePath(filepath.Join(work, "run")).BinariesPath(programs).
		Logger(log))
	err = server.Start()
	if err == nil {
		err = server.Stop()
	} else if os.Getuid() == 0 && complete(filepath.Join(programs, "bin")) {
		err = nil // initdb refuses to run as root, but the library has unpacked all programs before it calls initdb
	}
	if err != nil {
		return fmt.Errorf("postgres %s: %w", version, err)
	}
	if err := os.Rename(programs, target); err != nil && !complete(filepath.Join(target, "bin")) {
		return err
	}
	return nil
}
