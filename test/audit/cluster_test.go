package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // the driver

	"github.com/keywicket/keywicket/demo/postgres"
)

// node is a database server with two connection pools of the auditor: `changes` is for changes, and `operator` is for faults
// and for reading the rows.
type node struct {
	*postgres.Server
	changes, operator *sqlx.DB
}

func newNode(s *postgres.Server) (*node, error) {
	n := &node{Server: s}
	for name, target := range map[string]**sqlx.DB{"changes": &n.changes, "operator": &n.operator} {
		db, err := sqlx.Open("postgres", s.URL("postgres")+"&connect_timeout=5&application_name="+name)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		db.SetMaxOpenConns(3)
		*target = db
	}
	return n, nil
}

func (n *node) close() error {
	_ = n.changes.Close()
	_ = n.operator.Close()
	return n.Server.Close()
}

// exec runs the operator's statements.
func (n *node) exec(ctx context.Context, statements ...string) error {
	for _, s := range statements {
		if _, err := n.operator.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// terminateChanges terminates every connection for changes. Without this, an abandoned change might still commit.
func (n *node) terminateChanges(ctx context.Context) error {
	const others = `FROM pg_stat_activity WHERE usename = 'postgres' AND backend_type = 'client backend' AND application_name <> 'operator'`
	terminateOthers := func(ctx context.Context) error { return n.exec(ctx, `SELECT pg_terminate_backend(pid) `+others) }
	if err := terminateOthers(ctx); err != nil {
		return err
	}
	var prepared []string
	if err := n.operator.SelectContext(ctx, &prepared, `SELECT gid FROM pg_prepared_xacts`); err != nil {
		return err
	}
	for _, gid := range prepared { // a prepared transaction keeps its locks
		if err := n.exec(ctx, `ROLLBACK PREPARED `+quote(gid)); err != nil {
			return err
		}
	}
	return await(ctx, "the abandoned connections are closed", func(ctx context.Context) error {
		var left int
		if err := n.operator.GetContext(ctx, &left, `SELECT count(*) `+others); err != nil {
			return err
		}
		if left > 0 { // a command may have connected again
			return errors.Join(fmt.Errorf("%d connections are left", left), terminateOthers(ctx))
		}
		return nil
	})
}

// cluster is a primary and a synchronous standby: the primary answers a COMMIT only after the standby has confirmed it.
type cluster struct {
	mu               sync.Mutex
	primary, standby *node // standby is nil if there is no standby
}

func newCluster(ctx context.Context, dir string, replicated bool, settings map[string]string) (_ *cluster, err error) {
	all := map[string]string{
		"max_connections": "60", "superuser_reserved_connections": "5", "max_wal_senders": "5", "wal_level": "replica",
		"synchronous_commit": "on", "full_page_writes": "on", "wal_retrieve_retry_interval": "200ms", "wal_keep_size": "256MB",
		"shared_buffers": "32MB",
	}
	maps.Copy(all, settings)
	s, err := postgres.Start(ctx, postgres.Config{Dir: dir, Settings: all})
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	if c.primary, err = newNode(s); err != nil {
		return nil, err
	}
	if replicated {
		if err = c.addStandby(ctx); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *cluster) currentPrimary() *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.primary
}

// addStandby creates a standby. From then on, the primary answers a COMMIT only after the standby has confirmed it.
func (c *cluster) addStandby(ctx context.Context) error {
	p := c.currentPrimary()
	s, err := p.StartStandby(ctx)
	if err != nil {
		return err
	}
	standby, err := newNode(s)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.standby = standby
	c.mu.Unlock()
	if err := p.exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	return c.awaitStandby(ctx)
}

// awaitStandby waits until the standby has caught up and is synchronous.
func (c *cluster) awaitStandby(ctx context.Context) error {
	p := c.currentPrimary()
	return await(ctx, "the standby has caught up", func(ctx context.Context) error {
		var streaming bool
		err := p.operator.GetContext(ctx, &streaming, `SELECT count(*) = 1 FROM pg_stat_replication
			WHERE state = 'streaming' AND sync_state = 'sync' AND pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 65536`)
		if err == nil && !streaming {
			err = errors.New("the standby does not stream synchronously")
		}
		return err
	})
}

// promote makes the standby the primary. The old primary still serves its connections until the caller stops it.
func (c *cluster) promote(ctx context.Context) (old *node, err error) {
	c.mu.Lock()
	standby := c.standby
	c.mu.Unlock()
	var promoted bool
	if err := standby.operator.GetContext(ctx, &promoted, `SELECT pg_promote(true, 20)`); err != nil || !promoted {
		return nil, errors.Join(errors.New("the standby was not promoted"), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, c.primary, c.standby = c.primary, c.standby, nil
	return old, nil
}

func (c *cluster) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for _, n := range []*node{c.standby, c.primary} {
		if n != nil {
			err = errors.Join(err, n.close())
		}
	}
	c.primary, c.standby = nil, nil
	return err
}

// await calls the parameter `try` until try returns no error. If ctx ends first, await returns an error with the text of the
// parameter `what` and the last error of try.
func await(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
