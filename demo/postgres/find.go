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

// distribution holds the folders of installed servers. Debian's and Red Hat's are not on PATH, since several versions
// can be installed side by side.
var distribution = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/opt/homebrew/opt/postgresql/bin",
	"/usr/local/opt/postgresql/bin",
}

// errNone says what to do; root cannot use the downloaded server, whose folder belongs to root alone.
var errNone = errors.New("no Postgres server: install one (for example: apt-get install postgresql), " +
	"or set PG_BIN to the folder that holds initdb and postgres")

// find returns the folder that holds initdb and postgres: PG_BIN, else the one on PATH, else the newest of the
// distribution's, else a downloaded one.
func find(home string, distribution []string, log io.Writer) (string, error) {
	if bin := os.Getenv("PG_BIN"); bin != "" {
		if !complete(bin) {
			return "", fmt.Errorf("no Postgres server in PG_BIN=%s: "+
				"set PG_BIN to the folder that holds initdb and postgres", bin)
		}
		return filepath.Abs(bin)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		// Debian links into PATH one by one; initdb lies beside the real file.
		if path, err = filepath.EvalSymlinks(path); err == nil && complete(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range distribution {
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
		return "", errNone
	}
	bin, err := download(home, log)
	if err != nil {
		return "", fmt.Errorf("%w; downloading one failed: %w", errNone, err)
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

// version is what stands for the star of a folder's pattern, such as 15 in /usr/lib/postgresql/15/bin; 9.6 goes before
// 10, which no order of strings has.
func version(pattern, folder string) float64 {
	before, after, _ := strings.Cut(pattern, "*")
	n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(folder, before), after), 64)
	if err != nil {
		return 0
	}
	return n
}
