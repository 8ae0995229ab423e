package registry_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// During the overlap, both tokens are valid. Then only the new token is.
func TestRotateToken(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	expect := func(when string, key authz.Secret, want authz.Reason) {
		t.Helper()
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != want {
			t.Errorf("%s: %q, not %q", when, got.Denial, want)
		}
	}
	old, oldKey := f.Create(t, registry.NewToken{
		Format: storetest.Vel, API: "velocity", Name: "CI", Scopes: []string{"issues:read"}, Workspace: "acme",
		ExpiresIn: new(90 * 24 * time.Hour), Attributes: `{"plan": "free"}`,
	})
	f.Exec(t, `UPDATE keywicket.tokens SET created_at = created_at - interval '80 days', expires_at = expires_at - interval '80 days'`)
	rotated, key, err := f.RotateToken(t.Context(), old.ID, storetest.Vel, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if rotated.ID == old.ID || rotated.Name != "CI" || !slices.Equal(rotated.Scopes, old.Scopes) || *rotated.WorkspaceID != f.Acme.ID ||
		rotated.Attributes != old.Attributes || (rotated.ExpiresAt.Sub(rotated.CreatedAt)-90*24*time.Hour).Abs() > time.Second {
		t.Errorf("%+v, old: %+v", rotated, old)
	}
	if ended := storetest.Must(f.Token(t.Context(), old.ID)); (time.Until(*ended.ExpiresAt) - time.Hour).Abs() > time.Minute {
		t.Errorf("the old token ends at %v", ended.ExpiresAt)
	}
	expect("the old key during the overlap", oldKey, "")
	expect("the new key during the overlap", key, "")
	f.Exec(t, `UPDATE keywicket.tokens SET expires_at = clock_timestamp() WHERE id = $1`, old.ID)
	expect("the old key after the overlap", oldKey, authz.ReasonExpired)
	expect("the new key after the overlap", key, "")

	again, _, err := f.RotateToken(t.Context(), rotated.ID, storetest.Vel, 0)
	if err != nil {
		t.Fatal(err)
	}
	expect("without an overlap", key, authz.ReasonExpired)
	for id, want := range map[string]string{rotated.ID: "the token is expired", "nonesuch": "no token has this id"} {
		if got, _, err := f.RotateToken(t.Context(), id, storetest.Vel, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	storetest.Must(f.RevokeToken(t.Context(), again.ID))
	if got, _, err := f.RotateToken(t.Context(), again.ID, storetest.Vel, 0); !errors.Is(err, database.ErrInvalid) {
		t.Errorf("a revoked token: %+v, %v", got, err)
	}
	if n := len(storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{}))); n != 3 {
		t.Errorf("%d tokens exist", n)
	}
	rotate := func(id string) registry.Token {
		t.Helper()
		successor, _, err := f.RotateToken(t.Context(), id, storetest.Vel, time.Hour)
		if err != nil {
			t.Error(err)
		}
		return successor
	}
	// The overlap does not extend the life of the old token. A token without expiry gets a successor without expiry.
	short, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "s", Workspace: "acme", ExpiresIn: new(time.Minute)})
	rotate(short.ID)
	if ended := storetest.Must(f.Token(t.Context(), short.ID)); !ended.ExpiresAt.Equal(*short.ExpiresAt) {
		t.Errorf("the short token ends at %v, not %v", ended.ExpiresAt, short.ExpiresAt)
	}
	endless, _ := f.WorkspaceToken(t)
	if got := rotate(endless.ID); got.ExpiresAt != nil {
		t.Errorf("%+v", got)
	}
}

// Of several rotations at the same time, one succeeds.
func TestConcurrentRotations(t *testing.T) {
	f := storetest.NewFixture(t)
	old, _ := f.WorkspaceToken(t)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, _, err := f.RotateToken(t.Context(), old.ID, storetest.Vel, 0)
			errs <- err
		}()
	}
	rotated := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			rotated++
		} else if !errors.Is(err, database.ErrInvalid) || !strings.Contains(err.Error(), "is expired") {
			t.Error(err)
		}
	}
	if rotated != 1 {
		t.Errorf("%d rotations succeeded", rotated)
	}
}

// TestTokensThatNeedAttention lists tokens that expire soon, and tokens that nobody uses.
func TestTokensThatNeedAttention(t *testing.T) {
	f := storetest.NewFixture(t)
	const day = 24 * time.Hour
	for name, setup := range map[string]string{
		"fresh":             ``,
		"expires in 10d":    `expires_at = now() + interval '10 days'`,
		"expires in 20d":    `expires_at = now() + interval '20 days'`,
		"expired":           `expires_at = now() - interval '1 day', created_at = now() - interval '100 days'`,
		"revoked":           `revoked_at = now(), expires_at = now() + interval '10 days'`,
		"never used":        `created_at = now() - interval '100 days'`,
		"used long ago":     `created_at = now() - interval '300 days'`,
		"used yesterday":    `created_at = now() - interval '300 days'`,
		"both":              `created_at = now() - interval '100 days', expires_at = now() + interval '1 day'`,
		"unused but ending": `created_at = now() - interval '100 days', expires_at = now() + interval '20 days'`,
	} {
		token, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: name, Workspace: "acme"})
		if setup != "" {
			f.Exec(t, `UPDATE keywicket.tokens SET `+setup+` WHERE id = $1`, token.ID)
		}
		if age := map[string]string{"used long ago": "95 days", "used yesterday": "1 day"}[name]; age != "" {
			f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, now() - $2::interval)`, token.ID, age)
		}
	}
	for want, filter := range map[string]registry.TokenFilter{
		"both, expires in 10d":                                               {ExpiringIn: 14 * day},
		"both, never used, unused but ending, used long ago":                 {UnusedFor: 90 * day},
		"both, expires in 10d, never used, unused but ending, used long ago": {ExpiringIn: 14 * day, UnusedFor: 90 * day},
	} {
		var names []string
		for _, token := range storetest.Must(f.Tokens(t.Context(), filter)) {
			names = append(names, token.Name)
		}
		slices.Sort(names)
		if got := strings.Join(names, ", "); got != want {
			t.Errorf("%+v:\n got %s\nwant %s", filter, got, want)
		}
	}
}
