package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// signInterval is how often a sidecar gives a sign of life.
	signInterval = 10 * time.Second
	// signLife is for how long memory may be believed after the last sign of life.
	signLife = 2 * signInterval
	// aliveFor is how old, beside its bound, the last sign of life of a live sidecar is at most. It is more than signLife, so
	// that a sidecar which believes its memory counts as alive for everybody.
	aliveFor = 3 * signInterval

	// acknowledge in the change log asks every sidecar for a sign of life.
	acknowledge = "ack"
	// moved in the change log says that a sidecar has reached a newer server.
	moved = "moved"
)

// presence is this sidecar's row in the database.
type presence struct {
	id     string
	config Config
	world  string    // in which the row was made
	signed time.Time // just before the last sign of life was sent
	signs  int
}

func newPresence(c Config) presence {
	host, _ := os.Hostname()
	return presence{id: cmp.Or(host, "sidecar") + "-" + strings.ToLower(rand.Text()[:8]), config: c}
}

// due reports whether it is time for a sign of life.
func (p *presence) due() bool { return time.Since(p.signed) >= signInterval }

// gone reports whether others may take this sidecar for gone.
func (p *presence) gone() bool { return time.Since(p.signed) >= signLife }

// register makes the row, if it is not there.
func (p *presence) register(ctx context.Context, c *pollConnection) error {
	at := time.Now()
	_, err := c.write(ctx, nil, `
		INSERT INTO keywicket.sidecars (id, version, policies, bound, stale_if_error, snapshot, lease, lag)
		VALUES ($1, $2, $3, $4::float8 * interval '1 second', $5::float8 * interval '1 second', '1:1:', '0', '0')
		ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()`,
		p.id, p.config.Version, p.config.Policies, p.config.Cache.StalenessBound.Seconds(), p.config.Cache.StaleIfError.Seconds())
	if err != nil {
		return fmt.Errorf("register this sidecar in the database: %w", err)
	}
	p.signed, p.signs = at, 0
	return nil
}

// sign tells that every change that the snapshot sees is known here.
func (p *presence) sign(ctx context.Context, c *pollConnection, snapshot string, lease, lag time.Duration) error {
	at := time.Now()
	result, err := c.confirm(ctx, p.id, snapshot, lease, lag)
	if err != nil {
		return fmt.Errorf("give a sign of life: %w", err)
	}
	if rows, err := result.RowsAffected(); err != nil || rows == 0 {
		return errors.Join(err, p.register(ctx, c))
	}
	p.signed = at
	p.signs++
	return nil
}

// leave tells that nobody has to wait for this sidecar any more.
func (p *presence) leave(ctx context.Context, c *pollConnection) error {
	_, err := c.write(ctx, nil, `UPDATE keywicket.sidecars SET seen_at = '-infinity' WHERE id = $1`, p.id)
	return err
}

// alive counts the sidecars that are alive, including this one.
func (p *presence) alive(ctx context.Context, c *pollConnection) (n int64, err error) {
	err = c.GetContext(ctx, &n, `
		SELECT count(*) FROM keywicket.sidecars WHERE seen_at > clock_timestamp() - $1::float8 * interval '1 second'`, aliveFor.Seconds())
	return n, err
}
