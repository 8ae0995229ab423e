package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// StartStandby creates a standby, a server that replicates this server by streaming. It returns when the standby accepts
// connections. The standby has its own folder and port, and accepts the same password as this server.
func (s *Server) StartStandby(ctx context.Context) (_ *Server, err error) {
	f := &Server{config: s.config, bin: s.bin, user: s.user, password: s.password}
	if f.dir, err = home(s.config.Dir, s.user); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if s.HasProgram("pg_basebackup") {
		err = f.RunProgram(ctx, "pg_basebackup", "--pgdata", f.data(), "--dbname", s.URL("postgres"),
			"--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")
	} else if err = s.backup(ctx, f); err != nil {
		err = fmt.Errorf("postgres: copy the data for a standby: %w", err)
	}
	if err != nil {
		return nil, err
	}
	const tries = 3
	for try := 1; ; try++ {
		if f.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = f.run(ctx); err == nil {
			return f, nil
		}
		if try == tries || !strings.Contains(err.Error(), "Address already in use") {
			return nil, err
		}
	}
}

// backup copies the data to the server f, as pg_basebackup does. A downloaded server has no pg_basebackup.
func (s *Server) backup(ctx context.Context, f *Server) error {
	db, err := sql.Open("postgres", s.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	c, err := db.Conn(ctx) // Postgres ends the backup when this connection is closed
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	var version int
	if err := c.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return err
	}
	start, stop := `SELECT pg_backup_start('follow', true)`, `SELECT labelfile FROM pg_backup_stop(false)`
	if version < 150000 {
		start, stop = `SELECT pg_start_backup('follow', true, false)`, `SELECT labelfile FROM pg_stop_backup(false, false)`
	}
	if _, err := c.ExecContext(ctx, start); err != nil {
		return err
	}
	if err := copyData(s.data(), f.data()); err != nil {
		return err
	}
	var label string
	if err := c.QueryRowContext(ctx, stop).Scan(&label); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"backup_label": label, "standby.signal": "",
		"postgresql.auto.conf": fmt.Sprintf("primary_conninfo = '%s'\n", s.URL("postgres")),
	} {
		if err := os.WriteFile(filepath.Join(f.data(), name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return filepath.WalkDir(f.data(), func(path string, _ fs.DirEntry, err error) error {
		return cmp.Or(err, chown(path, f.user))
	})
}

// copyData copies the data folder of a running server, without the files that belong to the running process.
func copyData(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, from)
		if errors.Is(err, fs.ErrNotExist) { // deleted during the copy; the write-ahead log contains the change
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(to+name, 0o700)
		}
		switch folder := filepath.Dir(name); {
		case folder == "/pg_wal", folder == "/pg_stat_tmp", folder == "/pg_notify", strings.HasPrefix(name, "/postmaster."), !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(to+name, content, 0o600)
	})
}

// RunProgram runs a program of this Postgres installation, such as pg_dump, and waits until it ends. The program runs as the
// server's user, in the server's folder. When the context is canceled, the program is killed.
func (s *Server) RunProgram(ctx context.Context, name string, args ...string) error {
	p, err := s.process(name, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Stop(0)
		return fmt.Errorf("postgres: %s: %w", name, ctx.Err())
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// HasProgram reports whether this Postgres installation has the program. A downloaded server has only a few programs.
func (s *Server) HasProgram(program string) bool {
	info, err := os.Stat(filepath.Join(s.bin, program))
	return err == nil && info.Mode()&0o111 != 0
}

// Address returns the server's address, as host:port.
func (s *Server) Address() string { return s.address() }
