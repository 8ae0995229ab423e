// Package changelog defines constants that the sidecars and the operator's commands share. They belong to the change log
// (migration 00011) and to the list of sidecars.
package changelog

import "time"

const (
	// Channel is the channel of the triggers' notifications (NOTIFY).
	Channel = "keywicket_changes"
	// Acknowledge is the content of a row of the change log. Every sidecar that reads such a row writes a heartbeat.
	Acknowledge = "ack"
	// HeartbeatInterval is how often a sidecar writes a heartbeat.
	HeartbeatInterval = 10 * time.Second
	// AliveFor decides which sidecars count as alive: the last heartbeat must not be older than AliveFor plus the sidecar's
	// staleness bound. After a heartbeat, a sidecar may use its cache for less than AliveFor. So every sidecar that uses its
	// cache counts as alive.
	AliveFor = 3 * HeartbeatInterval
)
