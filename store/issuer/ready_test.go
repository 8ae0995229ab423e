package issuer_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/storetest"
)

// A login without rights in the schema cannot even see its tables. The operator gets the same remedy.
func TestReadyNamesTheRemedy(t *testing.T) {
	f := storetest.NewFixture(t)
	check := func(role string) {
		t.Helper()
		store := storetest.Must(issuer.Open(storetest.WithOption(f.URL, "role", role)))
		defer func() { _ = store.Close() }()
		const want = "run keywicket migrate up, and grant the role keywicket_issuer to the login"
		if err := store.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", role, err)
		}
	}
	check("keywicket_sidecar")
	check("pg_monitor")
	f.Exec(t, "DROP SCHEMA keywicket CASCADE")
	check("keywicket_issuer")
}
