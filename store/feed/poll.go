package feed

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/changelog"
	"github.com/keywicket/keywicket/store/database"
)

// maxChanges is the maximum number of rows of the change log in one reading. If there are more rows, the reading counts as a
// change of everything.
const maxChanges = 1000

// pollQuery reads the rows of all transactions whose id is at least the xmax of the previous reading's snapshot ($1). All data of
// the result comes from one new snapshot. $2 is the maximum number of rows. The upper limit of xid excludes rows of a restored
// dump, whose transaction ids this server may not have reached yet.
//
// The column number counts the cleanings of the log. The column world is a fingerprint of the server, tables, triggers and
// functions. The column told is true if the triggers write every change to the log.
const pollQuery = pollColumns + `ARRAY(` + laterChanges + `) AS changes` + pollFrom

// pollOpenQuery replaces pollQuery if some transactions were open in the snapshot of the previous reading ($3). pollOpenQuery also
// returns the rows of these transactions. Both parts of the query use the index, so a long transaction does not make the query
// slow.
const pollOpenQuery = pollColumns + `ARRAY((` + laterChanges + `)
       UNION ALL
       (SELECT changed.keys FROM pg_snapshot_xip($3::text::pg_snapshot) AS open,
               LATERAL (SELECT keys FROM keywicket.changes WHERE xid = open LIMIT 1 + $2::int8) AS changed
        LIMIT 1 + $2::int8)) AS changes` + pollFrom

const (
	pollColumns = `
SELECT pg_current_snapshot()::text AS snapshot, ` + database.ServerStarted + ` AS started, pg_is_in_recovery() AS standby,
       id, number AS mark, world, COALESCE(told, false) AS told, EXTRACT(EPOCH FROM clock_timestamp() - verified_at) AS verified,
       `
	laterChanges = `SELECT keys FROM keywicket.changes
              WHERE xid >= $1::text::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid LIMIT 1 + $2::int8`
	pollFrom = `
FROM (VALUES (1)) AS one
LEFT JOIN LATERAL (SELECT id, number, world, told, verified_at FROM keywicket.world ORDER BY verified_at DESC LIMIT 1) AS world ON true`
)

// verifyQuery verifies the schema: it detects whether changes may be missing from the log. Possible causes are a replaced table,
// column, schema or database, a disabled trigger, a new parent table, or a row-level security policy. Each cause changes an oid, a
// relfilenode or an xmin in a catalog, even if the same transaction restores the old schema. $1 is the list of tables that answers
// depend on. verified_at is now(), which is earlier than the snapshot of the verification.
const verifyQuery = `
INSERT INTO keywicket.world AS last (number, world, told, verified_at)
SELECT (SELECT number FROM keywicket.upkeep),
       concat_ws(' ', ` + database.Timeline + `, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
                 (SELECT concat(oid, '/', xmin) FROM pg_catalog.pg_namespace WHERE nspname = 'keywicket'),
                 tables.world, log.world, functions.world),
       COALESCE(tables.told AND log.told, false),
       now()
FROM (SELECT concat_ws(' ', hash_array_extended(array_agg(c.oid), 0), hash_array_extended(array_agg(c.relfilenode), 0),
                       hash_array_extended(array_agg(c.xmin), 0), hash_array_extended(array_agg(c.parts), 0),
                       hash_array_extended(array_agg(t.world), 0)) AS world,
             count(*) = cardinality($1::name[]) AND bool_and(t.told) AND NOT bool_or(relative) AS told
      FROM unnest($1::name[]) AS name,
           LATERAL (SELECT oid, relfilenode, xmin, ` + parts + ` AS parts,
                           EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid) OR
                           EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid) AS relative
                    FROM pg_catalog.pg_class AS c
                    WHERE relname = name AND relnamespace = to_regnamespace('keywicket') AND relkind = 'r' LIMIT 1) AS c,
           LATERAL (SELECT hash_array_extended(array_agg(xmin ORDER BY oid), 0) AS world,
                           count(*) FILTER (WHERE tgenabled = 'A' OR tgenabled = 'R' AND tgname = 'tell_row') = 5 AS told
                    FROM pg_catalog.pg_trigger
                    WHERE tgrelid = c.oid
                      AND tgname IN ('tell_insert', 'tell_update', 'tell_delete', 'tell_truncate', 'tell_row')) AS t
     ) AS tables,
     (SELECT concat_ws(' ', oid, relfilenode, xmin, ` + parts + `, t.world) AS world,
             t.told AND NOT relrowsecurity AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite WHERE ev_class = c.oid) AND
             NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid) AND
             NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid) AS told
      FROM pg_catalog.pg_class AS c,
           LATERAL (SELECT hash_array_extended(array_agg(xmin ORDER BY oid), 0) AS world, count(*) = 1 AND bool_and(tgenabled = 'A') AS told
                    FROM pg_catalog.pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal) AS t
      WHERE relname = 'changes' AND relnamespace = to_regnamespace('keywicket') AND relkind = 'r') AS log,
     (SELECT hash_array_extended(array_agg(xmin ORDER BY oid), 0) AS world FROM pg_catalog.pg_proc
      WHERE proname IN ('tell_changes', 'change_key') AND pronamespace = to_regnamespace('keywicket')) AS functions
ON CONFLICT (one) DO UPDATE SET world = excluded.world, told = excluded.told, verified_at = excluded.verified_at
WHERE last.verified_at < excluded.verified_at OR last.verified_at > clock_timestamp()`

// parts is an SQL expression for a hash of the columns and policies of the table c.
const parts = `concat_ws('/',
                (SELECT hash_array_extended(array_agg(xmin ORDER BY attnum), 0) FROM pg_catalog.pg_attribute WHERE attrelid = c.oid),
                (SELECT hash_array_extended(array_agg(xmin ORDER BY polname), 0) FROM pg_catalog.pg_policy WHERE polrelid = c.oid))`

// answerTables are the tables that answers depend on.
var answerTables = pq.StringArray{"tokens", "workspaces", "users", "members", "revoked_sessions",
	"oauth_access_tokens", "oauth_grants", "oauth_grant_workspaces", "oauth_apps"}

// reading is a row of pollQuery.
type reading struct {
	Snapshot    string          `db:"snapshot"`
	Started     int64           `db:"started"`
	Standby     bool            `db:"standby"`
	Changes     pq.StringArray  `db:"changes"`
	ID          sql.NullString  `db:"id"` // id of the row in keywicket.world. If the table is empty, ID, Cleanings, Fingerprint and Verified are NULL. A crash or a failover empties the table.
	Cleanings   sql.NullInt64   `db:"mark"`
	Fingerprint sql.NullString  `db:"world"`
	LogComplete bool            `db:"told"`
	Verified    sql.NullFloat64 `db:"verified"` // seconds since the last verification
}

// fingerprint returns a text that changes if the server, the tables, the triggers or their functions change.
func (r reading) fingerprint() string {
	return fmt.Sprint(r.Started, " ", r.ID.String, " ", r.Fingerprint.String)
}

// age returns the time since a sidecar last verified the schema. The result is negative if the database's clock was set back.
func (r reading) age() time.Duration { return database.Seconds(r.Verified.Float64) }

// reply converts the reading to the cache's form. The result `ack` reports that an operator's command waits for this sidecar's
// confirmation (see WaitForSidecars in package sidecars). The result `newServer` reports that another sidecar has found another
// current server, for example after a failover. This sidecar may still be connected to the old server.
func (r reading) reply() (reply cache.Reply, ack, newServer bool) {
	reply = cache.Reply{Snapshot: r.Snapshot, Cleanings: r.Cleanings.Int64, AllChanged: len(r.Changes) > maxChanges}
	if r.LogComplete && r.Verified.Float64 >= 0 {
		reply.Fingerprint = r.fingerprint()
		reply.FingerprintAge = r.age()
	}
	for _, change := range r.Changes {
		switch keys, err := cache.ParseKeys(change); {
		case change == changelog.Acknowledge:
			ack = true
		case change == newServerNotice:
			newServer = true
		case err != nil: // the text is "*", or has the format of a later version
			reply.AllChanged = true
		default:
			reply.Changes = append(reply.Changes, keys)
		}
	}
	return reply, ack, newServer
}

// pollConnection is a connection for reading the log.
type pollConnection struct {
	*sqlx.Conn
	keepsSession bool // settings and prepared statements stay valid until the connection is closed
	poll         *sqlx.Stmt
	// These statements are nil until they are needed, because many sidecars never need them.
	pollOpen, verify, heartbeat *sqlx.Stmt
}

func newPollConnection(ctx context.Context, c *sqlx.Conn) (*pollConnection, error) {
	keeps, err := database.KeepsSession(c)
	if err != nil {
		return nil, err
	}
	if keeps {
		// The queries read a few rows with an index. Without these settings, Postgres would scan small tables, which takes longer.
		// The comment of [database.ReadCommitted] explains the isolation level.
		_, err := c.ExecContext(ctx, `SET default_transaction_isolation = 'read committed'; SET enable_seqscan = off; SET enable_hashjoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan`)
		if err != nil {
			return nil, err
		}
	}
	poll, err := c.PreparexContext(ctx, pollQuery)
	return &pollConnection{Conn: c, keepsSession: keeps, poll: poll}, err
}

func (c *pollConnection) read(ctx context.Context, since string) (r reading, err error) {
	// The text has the form "xmin:xmax:open,…". Its last part is the list of the open transactions.
	parts := strings.SplitN(since, ":", 3)
	switch {
	case len(parts) != 3: // the first reading: the cache is still empty, so no change matters
		err = c.poll.GetContext(ctx, &r, "1", maxChanges)
	case parts[2] == "":
		err = c.poll.GetContext(ctx, &r, parts[1], maxChanges)
	default:
		if c.pollOpen == nil {
			if c.pollOpen, err = c.PreparexContext(ctx, pollOpenQuery); err != nil {
				return r, err
			}
		}
		err = c.pollOpen.GetContext(ctx, &r, parts[1], maxChanges, since)
	}
	return r, err
}

// reportNewServer writes a notice to the log of this connection's server, which is no longer the current server. The sidecars that
// still read this log then look for the current server. If reportNewServer fails, each of these sidecars detects the current server
// later itself.
func (c *pollConnection) reportNewServer(ctx context.Context) error {
	_, err := c.write(ctx, nil, `INSERT INTO keywicket.changes (keys) VALUES ($1)`, newServerNotice)
	return err
}

// verifySchema runs verifyQuery, for all sidecars.
func (c *pollConnection) verifySchema(ctx context.Context) error {
	if _, err := c.write(ctx, &c.verify, verifyQuery, answerTables); err != nil {
		return fmt.Errorf("verify the schema: %w", err)
	}
	return nil
}

// writeHeartbeat writes a heartbeat, which says that the sidecar has read every change that is visible in the snapshot.
func (c *pollConnection) writeHeartbeat(ctx context.Context, id, snapshot string, lease, lag time.Duration) (sql.Result, error) {
	return c.write(ctx, &c.heartbeat, `
		UPDATE keywicket.sidecars SET snapshot = $2::text::pg_snapshot, seen_at = clock_timestamp(),
			lease = $3::float8 * interval '1 second', lag = $4::float8 * interval '1 second'
		WHERE id = $1`, id, snapshot, lease.Seconds(), lag.Seconds())
}

// write runs a statement with isolation level read committed (see [database.ReadCommitted]). It prepares the statement, unless the
// parameter `prepared` is nil. Use nil for statements that are rarely needed.
func (c *pollConnection) write(ctx context.Context, prepared **sqlx.Stmt, query string, args ...any) (_ sql.Result, err error) {
	if !c.keepsSession {
		var result sql.Result
		err := database.ReadCommitted(ctx, c, func(tx *sqlx.Tx) (err error) {
			result, err = tx.ExecContext(ctx, query, args...)
			return err
		})
		return result, err
	}
	if prepared == nil {
		return c.ExecContext(ctx, query, args...)
	}
	if *prepared == nil {
		if *prepared, err = c.PreparexContext(ctx, query); err != nil {
			return nil, err
		}
	}
	return (*prepared).ExecContext(ctx, args...)
}

// verificationDue reports whether this sidecar has to verify the schema now, and whether it takes over from another sidecar. One
// sidecar verifies the schema for all sidecars, at each of its readings: the sidecar that made the last verification. If its next
// verification is late, another sidecar takes over. The parameter `age` is the time since the last verification by any sidecar.
// The parameter `own` is the time since the last verification by this sidecar. If age is negative, the last verification seems to
// be in the future.
func verificationDue(age, own, interval time.Duration) (due, takesOver bool) {
	limit := interval * 4 / 5
	if takesOver = own-age > interval/2; takesOver {
		limit = interval * 8 / 5
	}
	return age < 0 || age >= limit, takesOver
}
