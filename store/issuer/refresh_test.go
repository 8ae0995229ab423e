package issuer_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/storetest"
)

const window = 10 * time.Second

// race calls use twenty times concurrently, and returns the number of calls that succeeded.
func race(t *testing.T, use func() error) int64 {
	t.Helper()
	var succeeded atomic.Int64
	var racing sync.WaitGroup
	start := make(chan struct{})
	for range 20 {
		racing.Go(func() {
			<-start
			switch err := use(); {
			case err == nil:
				succeeded.Add(1)
			case !errors.Is(err, issuer.ErrGrant):
				t.Error(err)
			}
		})
	}
	close(start)
	racing.Wait()
	return succeeded.Load()
}

// If a code or refresh token is used twenty times concurrently, exactly one use succeeds.
func TestOneOfManyUsesSucceeds(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	for range 5 {
		code := g.NewCode(t)
		if n := race(t, func() error {
			_, err := g.Exchange(t.Context(), code, storetest.Velo, storetest.AcceptCode)
			return err
		}); n != 1 {
			t.Errorf("a code was accepted %d times", n)
		}
		refresh := g.ExchangeCode(t, g.NewCode(t)).Refresh
		if n := race(t, func() error { _, err := g.RefreshToken(t, refresh); return err }); n != 1 {
			t.Errorf("a refresh token was accepted %d times", n)
		}
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.oauth_grants WHERE revoked_at IS NULL`); n != 0 {
		t.Errorf("%d grants of credentials that were used twice are not revoked", n)
	}
}

// With a reuse window, all concurrent uses of a refresh token succeed. Each use returns another successor, and each successor can
// be refreshed afterwards.
func TestConcurrentRefreshesWithinTheWindow(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	for range 5 {
		first := g.ExchangeCode(t, g.NewCode(t))
		var mu sync.Mutex
		var successors []authz.Secret
		firstUses := 0
		n := race(t, func() error {
			issued, err := g.RefreshWithin(t, window, first.Refresh)
			mu.Lock()
			defer mu.Unlock()
			successors = append(successors, issued.Refresh)
			if !issued.Repeated {
				firstUses++
			}
			return err
		})
		if n != 20 || firstUses != 1 {
			t.Fatalf("%d of 20 uses succeeded, %d were the first use", n, firstUses)
		}
		slices.Sort(successors)
		if len(slices.Compact(slices.Clone(successors))) != 20 {
			t.Error("two uses returned the same refresh token")
		}
		for _, successor := range successors {
			if issued, err := g.RefreshWithin(t, window, successor); err != nil || issued.Repeated {
				t.Errorf("a successor: %+v, %v", issued, err)
			}
		}
		if _, err := g.RefreshWithin(t, window, first.Refresh); !errors.Is(err, issuer.ErrReused) {
			t.Errorf("after a successor was used: %v", err)
		}
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.oauth_grants WHERE revoked_at IS NULL`); n != 0 {
		t.Errorf("%d grants of credentials that were used too late are not revoked", n)
	}
}

// Two tabs use the same refresh token within the window. Both go on for several refreshes, also with collisions in one of the
// tabs. After a use that is too old, the tokens of both tabs are revoked.
func TestTwoTabsGoOn(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	d := g.Directory(t, nil)
	refresh := func(token authz.Secret) issuer.TokenPair {
		t.Helper()
		return storetest.Must(g.RefreshWithin(t, window, token))
	}
	first := g.ExchangeCode(t, g.NewCode(t))
	one, other := refresh(first.Refresh), refresh(first.Refresh)
	if one.Repeated || !other.Repeated || one.Grant != other.Grant {
		t.Errorf("%+v, %+v", one, other)
	}
	oldest := one.Refresh
	for range 3 {
		one = refresh(one.Refresh)
	}
	before := other.Refresh
	other = refresh(before)
	if again := refresh(before); !again.Repeated { // a third tab shares the tokens of the second tab
		t.Errorf("%+v", again)
	}
	other = refresh(other.Refresh)
	for _, token := range []authz.Secret{first.Access, one.Access, other.Access} {
		if got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(token, ""))); got.Denial != "" {
			t.Errorf("an access token: %+v", got)
		}
	}
	if _, err := g.RefreshWithin(t, window, oldest); !errors.Is(err, issuer.ErrReused) {
		t.Errorf("an older refresh token: %v", err)
	}
	for _, token := range []authz.Secret{one.Refresh, other.Refresh} {
		if _, err := g.RefreshWithin(t, window, token); !errors.Is(err, issuer.ErrGrant) {
			t.Errorf("after the revocation: %v", err)
		}
	}
}

// A second use of a refresh token is accepted only in the window, by the same client, and while no successor was used. Otherwise,
// it revokes the grant.
func TestSecondUseOfARefreshToken(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	for name, c := range map[string]struct {
		change string // $1 is the grant's id
		client string
		window time.Duration
		want   error
	}{
		"within the window":               {"", g.App.ID, window, nil},
		"at the end of the window":        {`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at - interval '7 seconds' WHERE grant_id = $1`, g.App.ID, window, nil},
		"after the window":                {`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at - interval '10 seconds' WHERE grant_id = $1`, g.App.ID, window, issuer.ErrReused},
		"the clock was set back a bit":    {`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at + interval '5 seconds' WHERE grant_id = $1`, g.App.ID, window, nil},
		"the clock was set back an hour":  {`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at + interval '1 hour' WHERE grant_id = $1`, g.App.ID, window, issuer.ErrReused},
		"without a window":                {"", g.App.ID, 0, issuer.ErrReused},
		"by another client":               {"", "another", window, issuer.ErrReused},
		"a successor was used":            {`UPDATE keywicket.oauth_refresh_tokens SET used_at = now() WHERE grant_id = $1 AND used_at IS NULL`, g.App.ID, window, issuer.ErrReused},
		"an older issuer used it first":   {`UPDATE keywicket.oauth_refresh_tokens SET parent = NULL WHERE grant_id = $1`, g.App.ID, window, issuer.ErrReused},
		"the token has expired meanwhile": {`UPDATE keywicket.oauth_refresh_tokens SET expires_at = now() WHERE grant_id = $1`, g.App.ID, window, issuer.ErrReused},
		"the grant was revoked meanwhile": {`UPDATE keywicket.oauth_grants SET revoked_at = now() WHERE id = $1`, g.App.ID, window, issuer.ErrReused},
		"the user was banned in meantime": {`UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = (SELECT user_id FROM keywicket.oauth_grants WHERE id = $1)`, g.App.ID, window, issuer.ErrReused},
		"the app was revoked in meantime": {`UPDATE keywicket.oauth_apps SET revoked_at = now() WHERE id = (SELECT app_id FROM keywicket.oauth_grants WHERE id = $1)`, g.App.ID, window, issuer.ErrReused},
	} {
		first := g.ExchangeCode(t, g.NewCode(t))
		storetest.Must(g.RefreshWithin(t, window, first.Refresh))
		if c.change != "" {
			g.Exec(t, c.change, first.Grant)
		}
		for use := range 2 { // the window begins at the first use: a repeated use does not extend it
			request := issuer.RefreshRequest{Token: first.Refresh, Client: c.client, Format: storetest.Velo, ReuseWindow: c.window}
			issued, err := g.Refresh(t.Context(), request, storetest.AllScopes)
			if !errors.Is(err, c.want) || issued.Repeated != (c.want == nil) || issued.Grant != first.Grant || (issued.Access == "") != (c.want != nil) {
				t.Errorf("%s, use %d: %+v, %v", name, use, issued, err)
			}
		}
		revoked := storetest.Value[bool](t, g.DB, `SELECT revoked_at IS NOT NULL FROM keywicket.oauth_grants WHERE id = $1`, first.Grant)
		if revoked != (c.want != nil) {
			t.Errorf("%s: the grant is revoked: %t", name, revoked)
		}
		used := `SELECT count(*) FROM keywicket.oauth_refresh_tokens WHERE digest = sha256($1) AND used_at > clock_timestamp() - interval '1 second'`
		if n := storetest.Value[int](t, g.DB, used, []byte(first.Refresh.Reveal())); name == "at the end of the window" && n != 0 {
			t.Errorf("%s: the second use has changed the time of the first use", name)
		}
		g.Exec(t, `UPDATE keywicket.users SET banned_until = NULL`)
		g.Exec(t, `UPDATE keywicket.oauth_apps SET revoked_at = NULL`)
	}
}

// A repeated use selects its own scopes. If it asks for a scope that the user did not grant, it is refused, and the grant stays
// valid.
func TestRepeatedUseSelectsItsScopes(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	first := g.ExchangeCode(t, g.NewCode(t))
	request := issuer.RefreshRequest{Token: first.Refresh, Client: g.App.ID, Format: storetest.Velo, ReuseWindow: window}
	reading := func([]string) ([]string, error) { return []string{"issues:read"}, nil }
	storetest.Must(g.Refresh(t.Context(), request, reading))
	wider := errors.New("more than was granted")
	if _, err := g.Refresh(t.Context(), request, func([]string) ([]string, error) { return nil, wider }); !errors.Is(err, wider) {
		t.Errorf("%v", err)
	}
	whole := storetest.Must(g.Refresh(t.Context(), request, storetest.AllScopes))
	if len(whole.Scopes) != 2 || len(storetest.Must(g.RefreshToken(t, whole.Refresh)).Scopes) != 2 {
		t.Errorf("%+v", whole)
	}
}

// A refresh token is used many times within the window. Each successor stays valid, however many there are. So an app can still revoke
// the grant, even if a thief has used the token many times in the meantime.
func TestManyUsesEndNoSuccessor(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	first := g.ExchangeCode(t, g.NewCode(t))
	one := storetest.Must(g.RefreshWithin(t, window, first.Refresh))
	for range 30 {
		storetest.Must(g.RefreshWithin(t, window, first.Refresh))
	}
	if next, err := g.RefreshWithin(t, window, one.Refresh); err != nil || next.Repeated {
		t.Errorf("the first successor: %+v, %v", next, err)
	}
	if grant, err := g.Revoke(t.Context(), one.Refresh, g.App.ID); err != nil || grant != first.Grant {
		t.Errorf("revoked the grant %q, %v", grant, err)
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.oauth_grants WHERE revoked_at IS NULL`); n != 0 {
		t.Error("the grant is not revoked")
	}
}
