package settings_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/storetest"
)

// A user has at most 50 active apps of an API, also if several requests register apps at the same time.
func TestAppLimit(t *testing.T) {
	f := newAccount(t)
	ada, bob := f.session(f.Ada, ""), f.session(f.Bob, "")
	n := draft
	n.IdempotencyKey = "first"
	first := storetest.Must(f.Settings.RegisterApp(t.Context(), ada, n))
	f.Exec(t, `INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential, owner_id, revoked_at)
		SELECT 'a' || i, CASE WHEN i < 60 THEN 'velocity' ELSE 'other' END, 'a', '{https://a.example}', decode(lpad(to_hex(i), 64, '0'), 'hex'), true, $1,
			CASE WHEN i BETWEEN 50 AND 59 THEN now() END
		FROM generate_series(2, 200) AS i`, f.Ada.ID) // 48 active apps, 10 revoked apps, and those of another API

	var registered, refused int
	var mu sync.Mutex
	var requests sync.WaitGroup
	for i := range 6 {
		requests.Go(func() {
			n := draft
			n.Name = fmt.Sprint("App ", i)
			_, err := f.Settings.RegisterApp(t.Context(), ada, n)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				registered++
			case errors.Is(err, settings.ErrInvalid) && strings.Contains(err.Error(), "50 apps"):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	requests.Wait()
	if registered != 1 || refused != 5 {
		t.Errorf("%d registered, %d refused", registered, refused)
	}
	if again, err := f.Settings.RegisterApp(t.Context(), ada, n); err != nil || !again.Repeated {
		t.Errorf("the repeated request: %+v, %v", again, err)
	}
	if _, err := f.Settings.RegisterApp(t.Context(), bob, draft); err != nil {
		t.Errorf("another user: %v", err)
	}
	storetest.Must(f.Settings.RevokeApp(t.Context(), ada, first.Object.ID))
	if _, err := f.Settings.RegisterApp(t.Context(), ada, draft); err != nil {
		t.Errorf("after the deletion of an app: %v", err)
	}
}
