package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Follow makes a standby that streams from this server, and returns when it answers. The standby has a folder and a free port
// of its own, and the password of this server. It needs pg_basebackup.
func (s *Server) Follow(ctx context.Context) (_ *Server, err error) {
	f := &Server{config: s.config, bin: s.bin, user: s.user, password: s.password}
	if f.dir, err = home(s.config.Dir, s.user); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	err = f.Program(ctx, "pg_basebackup", "--pgdata", f.data(), "--dbname", s.URL("postgres"),
		"--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")
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

// Program runs a program of Postgres' distribution, such as pg_dump, to its end. It runs as the server's user, in the server's
// folder. When the context ends, the program is killed.
func (s *Server) Program(ctx context.Context, name string, args ...string) error {
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

// Has says whether the distribution has the program: a server that was downloaded has few.
func (s *Server) Has(program string) bool {
	info, err := os.Stat(filepath.Join(s.bin, program))
	return err == nil && info.Mode()&0o111 != 0
}

// Address is host and port of the server.
func (s *Server) Address() string { return s.address() }
