package settings_test

import (
	"testing"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/storetest"
)

// A change that waits for a long transaction gives up before the client does. It leaves no process of the database waiting.
func TestLockedRow(t *testing.T) {
	f := newFixture(t)
	removal := storetest.Must(f.DB.Begin())
	defer func() { _ = removal.Rollback() }()
	storetest.Must(removal.Exec(`DELETE FROM keywicket.members WHERE user_id = $1`, f.Ada.ID))
	began := time.Now()
	_, err := f.settings.CreateToken(t.Context(), f.admin(), settings.OfWorkspace, newKey)
	if took := time.Since(began); err == nil || took > 3*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`); n != 0 {
		t.Errorf("%d processes wait", n)
	}
}
