package postgres

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// downloaded is the version that is fetched where none is installed.
const downloaded = embedded.V18

// download fetches a server into the user's cache folder and returns its bin folder. Without a cache folder, as with
// an empty HOME, it goes into the server's own home, and is fetched again the next time.
func download(home string, log io.Writer) (string, error) {
	cache := filepath.Join(home, "cache")
	if dir, err := os.UserCacheDir(); err == nil {
		if dir = filepath.Join(dir, "keywicket"); os.MkdirAll(dir, 0o755) == nil {
			cache = dir
		}
	}
	target := filepath.Join(cache, "postgres-"+string(downloaded))
	bin := filepath.Join(target, "bin")
	if complete(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()

	// The library has no call that only fetches, so a server is started once and thrown away; the programs are moved
	// into place whole, so that a second process, or one that is interrupted, never sees half of them.
	port, err := freePort()
	if err != nil {
		return "", err
	}
	if log == nil {
		log = io.Discard
	}
	programs := filepath.Join(work, "programs")
	server := embedded.NewDatabase(embedded.DefaultConfig().Version(downloaded).Port(uint32(port)).Locale("C").
		CachePath(filepath.Join(work, "archive")).RuntimePath(filepath.Join(work, "run")).BinariesPath(programs).
		Logger(log))
	if err := server.Start(); err != nil {
		return "", fmt.Errorf("postgres %s: %w", downloaded, err)
	}
	if err := server.Stop(); err != nil {
		return "", fmt.Errorf("postgres %s: %w", downloaded, err)
	}
	if err := os.Rename(programs, target); err != nil && !complete(bin) {
		return "", err
	}
	return bin, nil
}
