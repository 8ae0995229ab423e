package postgres

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func startServer(t *testing.T, config Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// query runs one statement on its own connection. It returns the single value, or an empty string without rows.
func query(t *testing.T, url, statement string) (string, error) {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var value sql.NullString
	err = db.QueryRowContext(t.Context(), statement).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return value.String, err
}

func wantValue(t *testing.T, s *Server, statement, want string) {
	t.Helper()
	if got, err := query(t, s.URL("postgres"), statement); err != nil || got != want {
		t.Errorf("%s: got %q, %v, want %q", statement, got, err, want)
	}
}

func TestServer(t *testing.T) {
	before := time.Now()
	s := startServer(t, Config{Settings: map[string]string{
		"max_connections": "17", "shared_preload_libraries": "pg_stat_statements", "port": "1", "listen_addresses": "*",
	}})
	t.Logf("ready after %s", time.Since(before))
	dir, pid := s.dir, s.PID()

	wantValue(t, s, "SHOW max_connections", "17")
	wantValue(t, s, "SHOW listen_addresses", "127.0.0.1")
	wantValue(t, s, "SHOW server_encoding", "UTF8")
	wantValue(t, s, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user", "true")
	wantValue(t, s, "CREATE EXTENSION pg_stat_statements", "")
	if _, err := query(t, strings.Replace(s.URL("postgres"), s.password, "guess", 1), "SELECT 1"); err == nil ||
		!strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "password")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the password file: %v", err)
	}

	wantValue(t, s, "CREATE TABLE kept AS SELECT 42 AS n", "")
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := query(t, s.URL("postgres"), "SELECT 1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("stopped: got %v, want a refused connection", err)
	}
	if s.PID() != 0 {
		t.Error("a stopped server has a process id")
	}
	for range 2 { // a stopped server, and then a running one
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantValue(t, s, "SELECT n FROM kept", "42")
	}

	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil { // a killed server
		t.Fatal(err)
	}
	wantValue(t, s, "SELECT 1", "1")

	last := s.PID()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	for _, pid := range []int{pid, last} {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d still exists: %v", pid, err)
		}
	}
}

func TestTwoServersAtOnce(t *testing.T) {
	a, b := startServer(t, Config{}), startServer(t, Config{})
	wantValue(t, a, "CREATE TABLE only_in_a AS SELECT 1", "")
	wantValue(t, b, "SELECT to_regclass('only_in_a') IS NULL", "true")
	if a.password == b.password {
		t.Error("both have the same password")
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = Start(t.Context(), Config{Port: l.Addr().(*net.TCPAddr).Port})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "cannot listen on "+l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestFailureLeavesNoFiles(t *testing.T) {
	parent, err := os.MkdirTemp("", "keywicket-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(parent) }()
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: parent, Settings: map[string]string{"no_such_setting": "on"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("got %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(cancelled, Config{Dir: parent}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestMissingServer(t *testing.T) {
	t.Run("PG_BIN points to nothing", func(t *testing.T) {
		t.Setenv("PG_BIN", "/nowhere")
		_, err := Start(t.Context(), Config{})
		want := "no Postgres server in PG_BIN=/nowhere: set PG_BIN to the folder that contains initdb and postgres"
		if err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no server is installed", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Log("for an ordinary user, Start downloads a server instead")
			return
		}
		t.Setenv("PG_BIN", "")
		t.Setenv("PATH", "")
		if _, err := start(t.Context(), Config{}, nil); !errors.Is(err, errNoServer) {
			t.Errorf("got %v", err)
		}
	})
}

// The command `make` may download the programs into a folder that only root can enter. The server's user cannot run programs there,
// so Start copies the programs.
func TestStartCopiesProgramsThatItsUserCannotReach(t *testing.T) {
	bin, err := find("", serverFolders, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "keywicket-test-") // only the owner can enter it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Symlink(filepath.Dir(bin), filepath.Join(dir, "programs")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PG_BIN", filepath.Join(dir, "programs", "bin"))
	wantValue(t, startServer(t, Config{}), "SELECT 1", "1")
}

// A standby starts from a copy of the data that was made without pg_basebackup. A downloaded server has no pg_basebackup.
func TestStandbyFromACopy(t *testing.T) {
	s := startServer(t, Config{})
	wantValue(t, s, "CREATE TABLE before AS SELECT 1 AS n", "")
	f := &Server{config: s.config, bin: s.bin, user: s.user, password: s.password}
	var err error
	if f.dir, err = home("", s.user); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := s.backup(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if f.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	if err := f.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantValue(t, s, "CREATE TABLE after AS SELECT 2 AS n", "")
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err := query(t, f.URL("postgres"), "SELECT n FROM before NATURAL FULL JOIN after WHERE n = 2 AND pg_is_in_recovery()")
		if got == "2" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the standby has %q, %v", got, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStartRefusesAFolderThatItsUserCannotEnter(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), Config{Dir: dir})
	if os.Getuid() != 0 {
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		return
	}
	if err == nil || !strings.Contains(err.Error(), "cannot enter "+dir) {
		t.Errorf("got %v", err)
	}
}

func TestFindPrefersTheNewestVersion(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"9.6", "15", "18", "17"} {
		bin := filepath.Join(root, "postgresql", v, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		programs := []string{"initdb", "postgres"}
		if v == "18" {
			programs = programs[:1] // 18 has no postgres, so find must skip it
		}
		for _, program := range programs {
			if err := os.WriteFile(filepath.Join(bin, program), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PG_BIN", "")
	t.Setenv("PATH", "")
	got, err := find("", []string{filepath.Join(root, "postgresql", "*", "bin")}, nil)
	if want := filepath.Join(root, "postgresql", "17", "bin"); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
