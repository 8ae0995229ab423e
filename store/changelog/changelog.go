// Package changelog defines constants for the change log (migration 00011) and for the list of sidecars. The sidecars and the
// operator's commands share these constants.
package changelog

import "time"

const (
	// Channel is the channel on which the triggers send notifications (NOTIFY).
	Channel = "keywicket_changes"
	// Acknowledge is the content of a row of the change log. Every sidecar that reads such a row writes a heartbeat.
	Acknowledge = "ack"
	// HeartbeatInterval is the time between two heartbeats of a sidecar.
	HeartbeatInterval = 10 * time.Second
	// AliveFor decides which sidecars are alive. The last heartbeat of such a sidecar is at most AliveFor plus its staleness
	// bound old. After a heartbeat, a sidecar uses its cache for less than AliveFor. So every sidecar that uses its cache is
	// alive.
	AliveFor = 3 * HeartbeatInterval
)
