package database

import (
	"time"

	"github.com/lib/pq"
)

// ServerStarted is the SQL expression that identifies a server: the start time of its postmaster, in microseconds since 1970. The
// servers of a cluster have different start times, and a restart changes the start time.
const ServerStarted = `(date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8`

// Timeline is the SQL expression for the WAL timeline: eight hexadecimal digits, or NULL on a standby. The promotion of a standby
// increases the timeline.
const Timeline = `CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END`

// Seconds converts a number of seconds to a duration. SQL's EXTRACT(EPOCH FROM …) returns such numbers.
func Seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// NonNilArray returns the list, or an empty array if the list is nil, because nil would become NULL in SQL.
func NonNilArray(list []string) pq.StringArray {
	if list == nil {
		return pq.StringArray{}
	}
	return list
}
