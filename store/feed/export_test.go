package feed

import (
	"testing"

	"github.com/jmoiron/sqlx"
)

// ReadChanges reads the change log like a sidecar.
func ReadChanges(t testing.TB, c *sqlx.Conn, since string) (snapshot string, changes []string) {
	t.Helper()
	p, err := newPollConnection(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.read(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	return r.Snapshot, r.Changes
}
