package store

import (
	"time"

	"github.com/lib/pq"
)

// serverStarted is the SQL expression that identifies a server: the start time of its postmaster, in microseconds since 1970. Servers
// of one cluster differ in it, and a restart changes it.
const serverStarted = `(date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8`

// timeline is the SQL expression for the WAL timeline: eight hexadecimal digits; NULL on a standby. A promotion increases it.
const timeline = `CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END`

// seconds returns the duration of a number of seconds, as SQL's EXTRACT(EPOCH FROM …) returns it.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// nonNilArray returns the list; an empty array for nil, which would be NULL in SQL.
func nonNilArray(list []string) pq.StringArray {
	if list == nil {
		return pq.StringArray{}
	}
	return list
}
