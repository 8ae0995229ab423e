// Package changelog has what the sidecars and the operator agree on about the log of changes (migration 00011) and the list of
// sidecars.
package store

import "time"

const (
	// changesChannel is the channel on which the triggers notify.
	changesChannel = "keywicket_changes"
	// acknowledge in the change log makes every sidecar write a heartbeat.
	acknowledge = "ack"
	// heartbeatInterval is how often a sidecar writes a heartbeat.
	heartbeatInterval = 10 * time.Second
	// aliveFor plus its staleness bound is the greatest age of a live sidecar's last heartbeat. It is longer than a sidecar may use its
	// cache after its last heartbeat, so that a sidecar that uses its cache counts as alive everywhere.
	aliveFor = 3 * heartbeatInterval
)
