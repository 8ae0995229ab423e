package store_test

import (
	"testing"
	"time"

	"github.com/keywicket/keywicket/store"
)

// A lock on a table that look-ups of one kind read delays neither the answers nor the connections of the other kinds.
func TestLockedTableHoldsUpNoOtherKind(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t)
	tx := must(f.db.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	must(tx.ExecContext(t.Context(), `LOCK keywicket.oauth_grants IN ACCESS EXCLUSIVE MODE`))
	d := f.directory(t, func(c *store.Config) { c.LookupTimeout = 3 * time.Second })
	if found, err := d.Lookup(t.Context(), lookup(key)); err != nil || found.Denial != "" {
		t.Errorf("%+v, %v", found, err)
	}
}
