package settings_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/storetest"
)

// A caller who was identified before a change, for example before a slow client has sent the body, changes nothing after it.
func TestOutdatedCallerChangesNothing(t *testing.T) {
	f := newAccount(t)
	key := storetest.Must(f.Settings.CreateToken(t.Context(), f.session(f.Ada, "admin"), settings.OfWorkspace, newKey))
	app := storetest.Must(f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), draft))
	ada := f.session(f.Ada, "admin")
	ada.Session = authz.Session{ID: "4a1d7f6e-0000-4000-8000-000000000001", UserID: f.Ada.ID, StartedAt: time.Now().Add(-time.Hour).Unix()}
	token := ada
	token.User.ID, token.Session, token.Actor = "", authz.Session{}, database.Actor{Kind: database.ActorToken, ID: key.Object.ID}
	token.Maker.Kind, token.Maker.Role, token.Maker.Scopes = authz.KindWorkspaceKey, "", []string{"workspace:admin"}

	for what, c := range map[string]struct {
		caller         settings.Caller
		change, repair string
		id             string
	}{
		"banned":          {ada, `UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = $1`, `UPDATE keywicket.users SET banned_until = NULL WHERE id = $1`, f.Ada.ID},
		"demoted":         {ada, `UPDATE keywicket.members SET role = 'member' WHERE user_id = $1`, `UPDATE keywicket.members SET role = 'admin' WHERE user_id = $1`, f.Ada.ID},
		"signed out":      {ada, `INSERT INTO keywicket.revoked_sessions (session_id) VALUES ($1)`, `DELETE FROM keywicket.revoked_sessions WHERE session_id = $1`, ada.Session.ID},
		"a revoked token": {token, `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = $1`, `UPDATE keywicket.tokens SET revoked_at = NULL WHERE id = $1`, key.Object.ID},
		"an expired token": {token, `UPDATE keywicket.tokens SET expires_at = now() - interval '1 second' WHERE id = $1`,
			`UPDATE keywicket.tokens SET expires_at = NULL WHERE id = $1`, key.Object.ID},
	} {
		other := storetest.Must(f.Settings.CreateToken(t.Context(), f.session(f.Ada, "admin"), settings.OfWorkspace, newKey)).Object.ID
		f.Exec(t, c.change, c.id)
		count := `SELECT count(*) FROM keywicket.audit_log`
		before := storetest.Value[int](t, f.DB, count)
		_, created := f.Settings.CreateToken(t.Context(), c.caller, settings.OfWorkspace, newKey)
		_, rotated := f.Settings.RotateToken(t.Context(), c.caller, settings.OfWorkspace, other, 0, "")
		_, revoked := f.Settings.RevokeToken(t.Context(), c.caller, settings.OfWorkspace, other)
		errs := []error{created, rotated, revoked, f.Settings.SetLeaverRule(t.Context(), c.caller, "keep")}
		if c.caller.User.ID != "" {
			_, registered := f.Settings.RegisterApp(t.Context(), c.caller, draft)
			_, _, newSecret := f.Settings.RotateAppSecret(t.Context(), c.caller, app.Object.ID)
			errs = append(errs, registered, newSecret)
		}
		for i, err := range errs {
			if !errors.Is(err, settings.ErrForbidden) {
				t.Errorf("%s: change %d: %v", what, i+1, err)
			}
		}
		if n := storetest.Value[int](t, f.DB, count); n != before {
			t.Errorf("%s: %d changes", what, n-before)
		}
		f.Exec(t, c.repair, c.id)
		if _, err := f.Settings.RevokeToken(t.Context(), c.caller, settings.OfWorkspace, other); err != nil {
			t.Errorf("not %s any longer: %v", what, err)
		}
	}
}
