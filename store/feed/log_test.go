package feed_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/feed"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// Concurrent transactions write to the log, and commit or roll back in any order. Some of them use two-phase commit. Each reading
// returns exactly the rows of the transactions that have committed since the previous reading.
func TestReadingReturnsExactlyTheNewlyVisibleRows(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"max_prepared_transactions": "10"})
	f := storetest.FixtureAt(t, s.URL("postgres"))
	seed := rand.Uint64() //nolint:gosec // a test
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
	type transaction struct {
		*sqlx.Tx
		rows     []string
		prepared string
	}
	var open []*transaction
	var committedRows []string
	rows, readings, returned := 0, 0, 0
	reader := storetest.Must(f.DB.Connx(t.Context()))
	defer func() { _ = reader.Close() }()
	since, _ := feed.ReadChanges(t, reader, "")
	for step := range 3000 {
		pick := func() (x *transaction) {
			if len(open) > 0 {
				x = open[r.IntN(len(open))]
			}
			return x
		}
		end := func(x *transaction, committed bool) {
			if committed {
				committedRows = append(committedRows, x.rows...)
			}
			open = slices.DeleteFunc(open, func(other *transaction) bool { return other == x })
		}
		switch x, n := pick(), r.IntN(100); {
		case n < 20 && len(open) < 8:
			open = append(open, &transaction{Tx: f.DB.MustBegin()})
		case n < 45 && x != nil && x.prepared == "":
			rows++
			row := fmt.Sprintf("%08x", rows)
			if r.IntN(4) == 0 { // write in a subtransaction, which is rolled back in some cases
				x.MustExec(`SAVEPOINT s`)
				x.MustExec(`INSERT INTO keywicket.changes (keys) VALUES ($1)`, row)
				if r.IntN(2) == 0 {
					x.MustExec(`ROLLBACK TO SAVEPOINT s`)
					continue
				}
			} else {
				x.MustExec(`INSERT INTO keywicket.changes (keys) VALUES ($1)`, row)
			}
			x.rows = append(x.rows, row)
		case n < 50 && x != nil && x.prepared == "" && len(x.rows) > 0:
			x.prepared = fmt.Sprint("t", step)
			x.MustExec(`PREPARE TRANSACTION '` + x.prepared + `'`)
			_ = x.Rollback() // the prepared transaction no longer belongs to the connection
		case n < 60 && x != nil:
			committed := r.IntN(3) > 0
			switch {
			case x.prepared != "" && committed:
				f.Exec(t, `COMMIT PREPARED '`+x.prepared+`'`)
			case x.prepared != "":
				f.Exec(t, `ROLLBACK PREPARED '`+x.prepared+`'`)
			case committed:
				if err := x.Commit(); err != nil {
					t.Fatal(err)
				}
			default:
				_ = x.Rollback()
			}
			end(x, committed)
		case n < 62:
			f.Exec(t, `SELECT pg_current_xact_id()`) // this transaction writes nothing to the log
		case n < 80:
			var changes []string
			since, changes = feed.ReadChanges(t, reader, since)
			readings++
			returned += len(changes)
			slices.Sort(changes)
			slices.Sort(committedRows)
			if !slices.Equal(changes, committedRows) {
				t.Fatalf("step %d: the reading returned %v, but %v became visible", step, changes, committedRows)
			}
			committedRows = nil
		}
	}
	for _, x := range open {
		if x.prepared != "" {
			f.Exec(t, `ROLLBACK PREPARED '`+x.prepared+`'`)
		} else {
			_ = x.Rollback()
		}
	}
	if readings < 100 || returned < 100 {
		t.Errorf("%d readings returned %d rows: the test proves little", readings, returned)
	}
}

// A product may use two-phase commit, so the sidecar must also detect the changes that a prepared transaction has made.
func TestPreparedTransactionIsNoticed(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"max_prepared_transactions": "10"})
	f := storetest.FixtureAt(t, s.URL("postgres"))
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t)
	expectCached := func(denial authz.Reason) {
		t.Helper()
		storetest.Eventually(t, fmt.Sprintf("the answer is cached with the denial %q", denial), func() bool {
			found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
			return found.Cache == authz.CacheHit && found.Denial == denial
		})
	}
	expectCached("")
	tx := f.DB.MustBegin()
	tx.MustExec(storetest.RevokeAll)
	tx.MustExec(`PREPARE TRANSACTION 'revoke'`)
	_ = tx.Rollback()
	expectCached("")
	f.Exec(t, `COMMIT PREPARED 'revoke'`)
	expectCached(authz.ReasonRevoked)
}

// Logical replication does not fire statement triggers. The row trigger tell_row writes the replicated changes to the log.
func TestLogicalReplicationIsNoticed(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"wal_level": "logical"})
	origin := storetest.FixtureAt(t, s.URL("postgres"))
	origin.Exec(t, `CREATE DATABASE copy`)
	db := storetest.OpenDB(t, s.URL("copy"))
	storetest.Must(schema.Migrate(t.Context(), db))
	tables := `keywicket.tokens, keywicket.workspaces, keywicket.users, keywicket.members, keywicket.revoked_sessions,
		keywicket.oauth_access_tokens, keywicket.oauth_grants, keywicket.oauth_grant_workspaces, keywicket.oauth_apps,
		keywicket.oauth_codes, keywicket.oauth_refresh_tokens`
	origin.Exec(t, `ALTER TABLE keywicket.oauth_grant_workspaces REPLICA IDENTITY FULL`)
	origin.Exec(t, `CREATE PUBLICATION everything FOR TABLE `+tables)
	origin.Exec(t, `SELECT pg_create_logical_replication_slot('everything', 'pgoutput')`)
	db.MustExec(`CREATE SUBSCRIPTION everything CONNECTION '` + s.URL("postgres") + `' PUBLICATION everything
		WITH (create_slot = false, slot_name = 'everything')`)
	t.Cleanup(func() {
		for _, statement := range []string{`ALTER SUBSCRIPTION everything DISABLE`, `ALTER SUBSCRIPTION everything SET (slot_name = NONE)`, `DROP SUBSCRIPTION everything`} {
			db.MustExec(statement)
		}
	})

	d, err := directory.Open(directory.Config{URL: s.URL("copy"), LookupTimeout: 10 * time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	expectCached := func(what string, l authz.Lookup, condition func(authz.LookupResult) bool) {
		t.Helper()
		storetest.Eventually(t, what, func() bool {
			found := storetest.Must(d.Lookup(t.Context(), l))
			return found.Cache == authz.CacheHit && condition(found)
		})
	}
	token, key := origin.WorkspaceToken(t, "issues:read")
	_, userKey := origin.UserToken(t, "issues:read")
	inAcme := authz.Lookup{Digest: userKey.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: "acme"}}
	expectCached("the token is copied", storetest.Lookup(key), func(f authz.LookupResult) bool { return f.Denial == "" })
	expectCached("the role is copied", inAcme, func(f authz.LookupResult) bool { return f.Workspace.Role == "admin" })
	origin.Exec(t, `UPDATE keywicket.tokens SET revoked_at = clock_timestamp() WHERE id = $1`, token.ID)
	expectCached("the revocation is read", storetest.Lookup(key), func(f authz.LookupResult) bool { return f.Denial == authz.ReasonRevoked })
	origin.Exec(t, `UPDATE keywicket.members SET role = 'guest' WHERE user_id = $1`, origin.Ada.ID)
	expectCached("the new role is read", inAcme, func(f authz.LookupResult) bool { return f.Workspace.Role == "guest" })
	origin.Exec(t, `DELETE FROM keywicket.members WHERE user_id = $1`, origin.Ada.ID)
	expectCached("the end of the membership is read", inAcme, func(f authz.LookupResult) bool { return f.Workspace.Role == "" })
	before := maps.Clone(d.CacheStats().Discarded)
	origin.Exec(t, `TRUNCATE `+tables)
	expectCached("the truncation is read", storetest.Lookup(key), func(f authz.LookupResult) bool { return f.Denial == authz.ReasonUnknown })
	storetest.Eventually(t, "all cached answers are discarded", func() bool { return !maps.Equal(before, d.CacheStats().Discarded) })
}
