// Package changelog defines constants of the change log (migration 00011) and of the list of sidecars, for the sidecars and the
// operator's commands.
package changelog

import "time"

const (
	// Channel is the channel of the triggers' notifications (NOTIFY).
	Channel = "keywicket_changes"
	// Acknowledge in the change log makes every sidecar write a heartbeat.
	Acknowledge = "ack"
	// HeartbeatInterval is how often a sidecar writes a heartbeat.
	HeartbeatInterval = 10 * time.Second
	// AliveFor plus its staleness bound is the maximum age of a live sidecar's last heartbeat. AliveFor is longer than a sidecar
	// may use its cache after a heartbeat, so every sidecar that uses its cache counts as alive.
	AliveFor = 3 * HeartbeatInterval
)
