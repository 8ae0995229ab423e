package settings_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/storetest"
)

// Repeated requests at the same time, more of them than connections, do not wait for each other's connections.
func TestManyRepeatedRequests(t *testing.T) {
	f := newAccount(t)
	n := draft
	n.IdempotencyKey = "k"
	ada := f.session(f.Ada, "")
	first := storetest.Must(f.Settings.RegisterApp(t.Context(), ada, n))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var requests sync.WaitGroup
	for range 20 * database.DefaultMaxOpenConnections {
		requests.Go(func() {
			again, err := f.Settings.RegisterApp(ctx, ada, n)
			if err != nil || !again.Repeated || again.Object.ID != first.Object.ID {
				t.Error(err)
			}
		})
	}
	requests.Wait()
}
