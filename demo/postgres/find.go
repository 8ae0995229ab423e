package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// serverFolders contains patterns of the folders in which operating systems and Homebrew install servers. Debian and Red Hat do not
// put these folders on PATH, because several versions can be installed together.
var serverFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/opt/homebrew/opt/postgresql/bin",
	"/usr/local/opt/postgresql/bin",
}

// errNoServer tells the user how to get a server. If this process runs as root, the function find downloads no server. The server
// would run as another user, who cannot enter root's cache folder.
var errNoServer = errors.New("no Postgres server: install one (for example: apt-get install postgresql), " +
	"or set PG_BIN to the folder that contains initdb and postgres")

// find returns the folder that contains initdb and postgres. It tries in this order: PG_BIN; the folder of the program postgres on
// PATH; for each pattern in serverFolders, the newest version that is complete; a download.
func find(home string, serverFolders []string, log io.Writer) (string, error) {
	if bin := os.Getenv("PG_BIN"); bin != "" {
		if !complete(bin) {
			return "", fmt.Errorf("no Postgres server in PG_BIN=%s: "+
				"set PG_BIN to the folder that contains initdb and postgres", bin)
		}
		return filepath.Abs(bin)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// Debian puts only links to some programs on PATH. initdb is in the folder of the link's target.
		if path, err = filepath.EvalSymlinks(path); err == nil && complete(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range serverFolders {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("postgres: %s: %w", pattern, err)
		}
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(version(pattern, b), version(pattern, a)) })
		if i := slices.IndexFunc(found, complete); i >= 0 {
			return found[i], nil
		}
	}
	if os.Getuid() == 0 {
		return "", errNoServer
	}
	bin, err := download(home, log)
	if err != nil {
		return "", fmt.Errorf("%w; downloading one failed: %w", errNoServer, err)
	}
	return bin, nil
}

func complete(bin string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(bin, program))
		if err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// version returns the part of the folder that matches the star in the pattern, such as 15 in /usr/lib/postgresql/15/bin. The result
// is a number, so that 9.6 is less than 10.
func version(pattern, folder string) float64 {
	prefix, suffix, _ := strings.Cut(pattern, "*")
	n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(folder, prefix), suffix), 64)
	if err != nil {
		return 0
	}
	return n
}
