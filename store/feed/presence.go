package feed

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/changelog"
)

const (
	// heartbeatValidity is how long a sidecar may use its cache after its last heartbeat. It is shorter than [changelog.AliveFor].
	heartbeatValidity = 2 * changelog.HeartbeatInterval
	// newServerNotice is the content of a row of the change log. The row means that a sidecar has found another current server.
	newServerNotice = "moved"
)

// presence is this sidecar's row in the list of sidecars.
type presence struct {
	id            string
	config        Config
	cache         cache.Config
	fingerprint   string    // value of reading.fingerprint when the row was created
	lastHeartbeat time.Time // time just before the last heartbeat was sent
	heartbeats    int       // number of heartbeats since the row was created
}

func newPresence(c Config, cacheConfig cache.Config) presence {
	host, _ := os.Hostname()
	return presence{id: cmp.Or(host, "sidecar") + "-" + strings.ToLower(rand.Text()[:8]), config: c, cache: cacheConfig}
}

// heartbeatDue reports whether it is time for a heartbeat.
func (p *presence) heartbeatDue() bool {
	return time.Since(p.lastHeartbeat) >= changelog.HeartbeatInterval
}

// mayBePresumedStopped reports whether other processes may soon consider this sidecar stopped.
func (p *presence) mayBePresumedStopped() bool {
	return time.Since(p.lastHeartbeat) >= heartbeatValidity
}

// register creates the row if it is missing.
func (p *presence) register(ctx context.Context, c *pollConnection) error {
	at := time.Now()
	_, err := c.write(ctx, nil, `
		INSERT INTO keywicket.sidecars (id, version, policies, bound, stale_if_error, snapshot, lease, lag)
		VALUES ($1, $2, $3, $4::float8 * interval '1 second', $5::float8 * interval '1 second', '1:1:', '0', '0')
		ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()`,
		p.id, p.config.Version, p.config.Policies, p.cache.StalenessBound.Seconds(), p.cache.StaleIfError.Seconds())
	if err != nil {
		return fmt.Errorf("register this sidecar in the database: %w", err)
	}
	p.lastHeartbeat, p.heartbeats = at, 0
	return nil
}

// heartbeat writes that this sidecar is alive and has read every change that is visible in the snapshot.
func (p *presence) heartbeat(ctx context.Context, c *pollConnection, snapshot string, lease, lag time.Duration) error {
	at := time.Now()
	result, err := c.writeHeartbeat(ctx, p.id, snapshot, lease, lag)
	if err != nil {
		return fmt.Errorf("write a heartbeat: %w", err)
	}
	if rows, err := result.RowsAffected(); err != nil || rows == 0 {
		return errors.Join(err, p.register(ctx, c))
	}
	p.lastHeartbeat = at
	p.heartbeats++
	return nil
}

// markStopped marks this sidecar as stopped, so that WaitForSidecars (package sidecars) does not wait for this sidecar.
func (p *presence) markStopped(ctx context.Context, c *pollConnection) error {
	_, err := c.write(ctx, nil, `UPDATE keywicket.sidecars SET seen_at = '-infinity' WHERE id = $1`, p.id)
	return err
}

// countAlive returns the number of live sidecars, including this sidecar.
func (p *presence) countAlive(ctx context.Context, c *pollConnection) (n int64, err error) {
	err = c.GetContext(ctx, &n, `
		SELECT count(*) FROM keywicket.sidecars WHERE seen_at > clock_timestamp() - $1::float8 * interval '1 second'`, changelog.AliveFor.Seconds())
	return n, err
}
