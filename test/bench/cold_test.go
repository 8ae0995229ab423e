package bench

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
)

// cold measures a check of a token that the sidecar has never looked up. The check is compared with the look-up's query alone:
// a prepared statement with the same SQL text, on a connection with the same login. There is one caller.
func cold(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	const stored = 100_000
	databaseURL := w.database(t, "cold", stored)
	sidecar := w.keywicket(t, "KEYWICKET_DATABASE_URL="+databaseURL)
	p := w.issuesPlan("cold", equalTokens, numbersBelow(stored))
	w.client.storePlan(t, p)
	next := 100
	w.client.run(t, load{Plan: "cold", Address: sidecar.address, Callers: 1, Checks: next, Want: 200})
	db, err := sqlx.ConnectContext(ctx, "postgres", databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	query, err := db.PreparexContext(ctx, w.lookupQuery(t, "cold"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // Postgres changes to a generic plan after some executions
		runQuery(ctx, t, query, p.Entries[i].Token)
	}
	// Between two cold checks, Postgres and its connection are idle, and the processor runs something else. So one of the two
	// cases pauses before each query.
	paused, backToBack := newCase(samePace), newCase("back to back")
	paused.Base, backToBack.Base = "query", "query"
	for round := range *rounds {
		if ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		checks := func() {
			r := w.client.run(t, load{
				Plan: "cold", Address: sidecar.address, Callers: 1, For: *turn, From: next, Checks: stored - next, Want: 200, Details: true,
			})
			if next += r.Checks; r.Hits > 0 || next >= stored {
				t.Fatalf("%d answers came from the cache; %d of %d tokens are used", r.Hits, next, stored)
			}
			for _, c := range []*caseFigures{&paused, &backToBack} {
				c.add(sidecar.name, p50, microseconds(r.P50))
				c.add(sidecar.name, p99, microseconds(r.P99))
			}
		}
		queries := func(c *caseFigures, pause time.Duration) {
			var took []time.Duration
			for end := time.Now().Add(*turn); time.Now().Before(end); next++ {
				time.Sleep(pause)
				start := time.Now()
				runQuery(ctx, t, query, p.Entries[next%stored].Token)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			c.add("query", p50, microseconds(took[len(took)/2]))
			c.add("query", p99, microseconds(took[len(took)*99/100]))
		}
		steps := []func(){checks, func() { queries(&paused, coldPause) }, func() { queries(&backToBack, 0) }}
		for i := range steps {
			steps[(i+round)%len(steps)]()
		}
	}
	return []caseFigures{paused, backToBack}
}

const (
	samePace  = "queries at the pace of cold checks"
	coldPause = 200 * time.Microsecond // minimum pause: about the time of a cold check minus the time of its query
)

// lookupQuery returns the latest look-up query of the sidecar.
func (w *setup) lookupQuery(t *testing.T, database string) (query string) {
	t.Helper()
	var all []string
	if err := w.db.SelectContext(t.Context(), &all,
		`SELECT query FROM pg_stat_activity WHERE datname = $1 AND query LIKE '%keywicket.tokens%' AND query LIKE '%digest%'`, database); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) != 1 {
		t.Fatalf("exactly one look-up query was expected:\n%s", strings.Join(all, "\n"))
	}
	return all[0]
}

// runQuery runs the query for a token of the workspace.
func runQuery(ctx context.Context, t *testing.T, query *sqlx.Stmt, token int64) {
	t.Helper()
	digest := authz.Secret(key(token)).Digest()
	rows, err := query.QueryxContext(ctx, pq.ByteaArray{digest[:]}, pq.StringArray{"velocity"}, pq.StringArray{""}, pq.StringArray{workspaceSlug})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, into := make([]sql.RawBytes, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	n := 0
	for ; rows.Next(); n++ {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil || n != 1 || string(values[2]) == "unknown" {
		t.Fatalf("the look-up returned %d rows: %v %q", n, err, values)
	}
}

// numbersBelow returns the numbers from 0 to n-1.
func numbersBelow(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// database creates a database with the given number of tokens, which all have the same scopes. It returns the URL for the
// sidecar.
func (w *setup) database(t *testing.T, name string, stored int) string {
	t.Helper()
	if _, err := w.db.ExecContext(t.Context(), `CREATE DATABASE `+pq.QuoteIdentifier(name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.db.ExecContext(context.Background(), `DROP DATABASE `+pq.QuoteIdentifier(name)+` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	ownerURL := w.server.URL(name)
	db, home := openMigrated(t, ownerURL)
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), fmt.Sprintf(`
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(('vel_' || lpad((n + %d)::text, 38, '0'))::bytea), 't', '{issues:read}', $1
		FROM generate_series(0::bigint, $2 - 1) n`, equalTokens), home, stored); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
	return withRole(t, ownerURL)
}
