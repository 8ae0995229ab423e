// Package changelog defines constants for the change log (migration 00011) and for the list of sidecars. The sidecars and the
// operator's commands share these constants.
package changelog

import "time"

const (
	// Channel is the channel of the triggers' notifications (NOTIFY).
	Channel = "keywicket_changes"
	// Acknowledge is the content of a row of the change log. Every sidecar that reads such a row writes a heartbeat.
	Acknowledge = "ack"
	// HeartbeatInterval is how often a sidecar writes a heartbeat.
	HeartbeatInterval = 10 * time.Second
	// AliveFor decides which sidecars count as alive: their last heartbeat is at most AliveFor plus their staleness bound old.
	// After a heartbeat, a sidecar may use its cache for less than AliveFor. So every sidecar that uses its cache counts as alive.
	AliveFor = 3 * HeartbeatInterval
)
