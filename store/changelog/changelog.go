// Package changelog has what the sidecars and the operator agree on about the log of changes (migration 00011) and the list of
// sidecars.
package changelog

import "time"

const (
	// Channel is the channel on which the triggers notify.
	Channel = "keywicket_changes"
	// Acknowledge in the change log makes every sidecar write a heartbeat.
	Acknowledge = "ack"
	// HeartbeatInterval is how often a sidecar writes a heartbeat.
	HeartbeatInterval = 10 * time.Second
	// AliveFor plus its staleness bound is the greatest age of a live sidecar's last heartbeat. It is longer than a sidecar may use its
	// cache after its last heartbeat, so that a sidecar that uses its cache counts as alive everywhere.
	AliveFor = 3 * HeartbeatInterval
)
