package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
)

// fault is a temporary failure.
type fault struct {
	name        string
	minDuration time.Duration // minimum time until it is healed
	maxDuration time.Duration // maximum time until it is healed
	standby     bool          // the fault needs a standby
	// begin starts the fault, and returns the function that heals it. Neither function waits for the sidecars.
	begin func(ctx context.Context, d *deployment, r *rand.Rand) (heal func(context.Context) error, err error)
}

// noFault is a period without a fault.
var noFault = fault{name: noFaultName, minDuration: bound, maxDuration: 2 * bound, begin: func(context.Context, *deployment, *rand.Rand) (func(context.Context) error, error) {
	return noHeal, nil
}}

var faults = []fault{
	noFault,
	{name: "freeze", minDuration: 1500 * time.Millisecond, maxDuration: 2500 * time.Millisecond, begin: freeze},
	{name: "silence", minDuration: 2 * bound, maxDuration: 3 * bound, begin: toxic("timeout", randomProxies, untilHealed)},
	{name: "delay", minDuration: 2 * bound, maxDuration: 3 * bound, begin: toxic("latency", randomProxies, func(r *rand.Rand) string {
		return fmt.Sprintf(`"latency": %d, "jitter": %d`, 50+r.IntN(600), r.IntN(50))
	})},
	{name: "reset", minDuration: bound / 2, maxDuration: 2 * bound, begin: toxic("reset_peer", randomProxies, func(r *rand.Rand) string {
		return fmt.Sprintf(`"timeout": %d`, r.IntN(200))
	})},
	{name: "terminate", minDuration: bound, maxDuration: 2 * bound, begin: terminate},
	{name: "kill", minDuration: bound / 5, maxDuration: bound, begin: kill},
	{name: "crash", minDuration: bound, maxDuration: 2 * bound, begin: crash},
	{name: "fail over", minDuration: 3 * bound, maxDuration: 4 * bound, standby: true, begin: failOver},
	{name: "lock", minDuration: bound, maxDuration: 2 * bound, begin: lock},
	{name: "full", minDuration: 2 * bound, maxDuration: 3 * bound, begin: takeAllConnections},
}

// The faults silentReplies and slowReplies are only for the controls in control_test.go.
var (
	silentReplies = fault{name: "silent", minDuration: 3 * bound, maxDuration: 3 * bound, begin: toxic("timeout", lookupReplies, untilHealed)}
	slowReplies   = fault{name: "slow", minDuration: 3 * bound, maxDuration: 3 * bound, begin: toxic("latency", lookupReplies, func(*rand.Rand) string {
		return `"latency": 950`
	})}
)

// untilHealed returns the attributes that make a connection silent until the fault is healed.
func untilHealed(*rand.Rand) string { return `"timeout": 0` }

func noHeal(context.Context) error { return nil }

// injectFaults injects all faults in random order until the context ends, and records the time of each fault in the history.
func (d *deployment) injectFaults(ctx context.Context, faults []fault, r *rand.Rand) error {
	var remaining []fault
	begin := d.now()
	for ctx.Err() == nil {
		if len(remaining) == 0 {
			remaining = append(remaining, faults...)
			r.Shuffle(len(remaining), func(i, j int) { remaining[i], remaining[j] = remaining[j], remaining[i] })
		}
		f := remaining[0]
		if remaining = remaining[1:]; f.standby && !d.replicated {
			continue
		}
		healed, err := d.injectFault(ctx, f, r)
		end := d.now()
		d.history.addSpan(span{fault: f.name, begin: begin, healed: healed, end: end})
		if begin = end; err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

// injectFault injects one fault, heals it, and waits until all sidecars answer again.
func (d *deployment) injectFault(ctx context.Context, f fault, r *rand.Rand) (healed time.Duration, err error) {
	// A fault that has begun is healed even if ctx is done.
	healCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	defer d.affectedSidecar.Store(0)
	heal, err := f.begin(healCtx, d, r)
	if err != nil {
		if heal != nil { // the fault had begun
			err = errors.Join(err, heal(healCtx))
		}
		return d.now(), err
	}
	target := "all sidecars"
	if n := d.affectedSidecar.Load(); n > 0 {
		target = fmt.Sprintf("sidecar %d", n-1)
	}
	d.log("%v: %s of %s", d.now().Round(time.Millisecond), f.name, target)
	pause(ctx, f.minDuration+time.Duration(r.Int64N(int64(f.maxDuration-f.minDuration)+1)))
	if err := heal(healCtx); err != nil {
		return d.now(), err
	}
	healed = d.now()
	pause(ctx, bound+bound/2)
	return healed, await(healCtx, "the sidecars answer again", func(context.Context) error {
		for i, s := range d.sidecars {
			if last := time.Duration(s.last503.Load()); d.now()-last < bound/2 {
				return fmt.Errorf("sidecar %d has answered 503", i)
			}
		}
		return nil
	})
}

// pickSidecar chooses the sidecar that the fault affects.
func (d *deployment) pickSidecar(r *rand.Rand) *sidecar {
	i := r.IntN(len(d.sidecars))
	d.affectedSidecar.Store(int32(i + 1))
	return d.sidecars[i]
}

func freeze(_ context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	s := d.pickSidecar(r)
	return func(context.Context) error { return s.signal(syscall.SIGCONT) }, s.signal(syscall.SIGSTOP)
}

// randomProxies chooses one or both of a sidecar's proxies to the database, and one or both directions.
func randomProxies(s *sidecar, r *rand.Rand) ([]*toxiproxy.Proxy, []string) {
	return [][]*toxiproxy.Proxy{{s.feed}, {s.lookups}, {s.feed, s.lookups}}[r.IntN(3)],
		[][]string{{"upstream"}, {"downstream"}, {"upstream", "downstream"}}[r.IntN(3)]
}

func lookupReplies(s *sidecar, _ *rand.Rand) ([]*toxiproxy.Proxy, []string) {
	return []*toxiproxy.Proxy{s.lookups}, []string{"downstream"}
}

// toxic injects one of toxiproxy's faults between a sidecar and its database.
func toxic(
	kind string, chooseProxies func(*sidecar, *rand.Rand) ([]*toxiproxy.Proxy, []string), attributes func(*rand.Rand) string,
) func(context.Context, *deployment, *rand.Rand) (func(context.Context) error, error) {
	return func(_ context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
		s := d.pickSidecar(r)
		proxies, streams := chooseProxies(s, r)
		var heals []func(context.Context) error
		for _, p := range proxies {
			for _, stream := range streams {
				t, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"name": %q, "type": %q, "stream": %q, "attributes": {%s}}`,
					stream, kind, stream, attributes(r))))
				if err != nil {
					return nil, err
				}
				heals = append(heals, func(ctx context.Context) error { return p.Toxics.RemoveToxic(ctx, t.Name) })
			}
		}
		return func(ctx context.Context) error {
			var err error
			for _, heal := range heals {
				err = errors.Join(err, heal(ctx))
			}
			return err
		}, nil
	}
}

// terminate terminates the sidecars' connections at the server: all of them, or about half.
func terminate(ctx context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	return noHeal, d.cluster.currentPrimary().exec(ctx, fmt.Sprintf(
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'audited' AND pid %% %d = 0`, 1+r.IntN(2)))
}

func kill(_ context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	s := d.pickSidecar(r)
	p := s.currentProcess()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.run(); err != nil {
			return err
		}
		return s.waitReady(ctx)
	}, nil
}

// crash kills one process of the server. The server then stops all its other processes and recovers.
func crash(ctx context.Context, d *deployment, _ *rand.Rand) (func(context.Context) error, error) {
	n := d.cluster.currentPrimary()
	var pid int
	err := n.operator.GetContext(ctx, &pid, `SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`)
	if errors.Is(err, sql.ErrNoRows) {
		return noHeal, nil
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("kill a backend: %w", err)
	}
	return func(ctx context.Context) error {
		if err := await(ctx, "the server has recovered", n.operator.PingContext); err != nil {
			return err
		}
		if d.replicated {
			return d.cluster.awaitStandby(ctx)
		}
		return nil
	}, nil
}

// failOver promotes the standby. From that moment, new connections reach the new primary, and existing connections still reach
// the old primary. Until a sidecar has reached the new primary, only fencing of the old primary can prevent outdated answers.
// Fencing is not the sidecar's task.
func failOver(ctx context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	if err := d.cluster.awaitStandby(ctx); err != nil {
		return nil, err
	}
	promoting := d.now()
	d.failover.Lock()
	old, err := d.cluster.promote(ctx)
	if err != nil {
		d.failover.Unlock()
		return nil, err
	}
	d.relay.setTarget(d.cluster.currentPrimary().Address())
	// Terminate the changes that still wait for an answer of the old primary.
	err = errors.Join(old.terminateChanges(ctx), d.awaitSidecarsAtPrimary(ctx))
	d.failover.Unlock()
	d.changing.Lock()
	states, readErr := d.readBack(ctx)
	if err = errors.Join(err, readErr); err == nil {
		d.recordChanges("failover", promoting, d.now(), states, nil)
		if r.IntN(2) == 0 { // the old primary no longer waits for a standby, so its notifications reach listeners
			err = old.exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = ''`, `SELECT pg_reload_conf()`)
		}
	}
	d.changing.Unlock()
	return func(ctx context.Context) error {
		return errors.Join(old.close(), d.cluster.addStandby(ctx))
	}, err
}

// awaitSidecarsAtPrimary waits until each sidecar has reached the new primary with one connection. It counts the rows in the
// new primary's table keywicket.sidecars, which is empty at first.
func (d *deployment) awaitSidecarsAtPrimary(ctx context.Context) error {
	return await(ctx, "all sidecars have reached the new primary", func(context.Context) error {
		var n int
		err := d.cluster.currentPrimary().operator.GetContext(ctx, &n, `SELECT count(*) FROM keywicket.sidecars`)
		if err == nil && n < len(d.sidecars) {
			err = fmt.Errorf("%d of %d sidecars have reached it", n, len(d.sidecars))
		}
		return err
	})
}

// lock locks a table against all other access.
func lock(ctx context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	tables := []string{"tokens", "members", "users", "workspaces", "revoked_sessions", "oauth_grants"}
	table := tables[r.IntN(len(tables))]
	var lockTx *sql.Tx
	// Retry, because a restore may drop and recreate the table during the wait.
	err := await(ctx, "the table is locked", func(context.Context) error {
		tx, err := d.cluster.currentPrimary().operator.BeginTx(ctx, nil) // the context of lock, because the context of this function ends earlier
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `LOCK TABLE keywicket.`+table+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		lockTx = tx
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return lockTx.Rollback() }, nil
}

// takeAllConnections takes all free connections, and terminates some or all of the sidecars' connections. The sidecars then
// must wait for new connections.
func takeAllConnections(ctx context.Context, d *deployment, r *rand.Rand) (func(context.Context) error, error) {
	n := d.cluster.currentPrimary()
	other, err := d.unprivilegedURL(n)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("postgres", other)
	if err != nil {
		return nil, err
	}
	take := func() {
		for {
			if c, err := db.Conn(ctx); err != nil {
				return
			} else if err := c.PingContext(ctx); err != nil {
				return
			}
		}
	}
	take()
	_, err = terminate(ctx, d, r)
	take()
	return func(context.Context) error { return db.Close() }, err
}
