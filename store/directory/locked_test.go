package directory_test

import (
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/storetest"
)

// If a table for one kind of credential is locked, look-ups of other kinds are not delayed.
func TestLockedTableDelaysNoOtherKindOfCredential(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.oauth_grants IN ACCESS EXCLUSIVE MODE`))
	d := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = 3 * time.Second })
	if found, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || found.Denial != "" {
		t.Errorf("%+v, %v", found, err)
	}
}
