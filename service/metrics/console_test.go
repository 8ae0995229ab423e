package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// A scrape returns the numbers of the last count, and starts no query. A failed count keeps them.
func TestNoticesOfTheConsole(t *testing.T) {
	f := storetest.NewFixture(t)
	f.WorkspaceToken(t)
	soon, _ := f.UserToken(t)
	f.Exec(t, `UPDATE keywicket.tokens SET expires_at = now() + interval '3 days' WHERE id = $1`, soon.ID)
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	defer func() { _ = store.Close() }()
	m := NewConsole(&session.Verifier{})
	scrape := func() string {
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		return w.Body.String()
	}
	if text := scrape(); strings.Contains(text, "keywicket_tokens_noticed") {
		t.Errorf("before the first count:\n%s", text)
	}
	var log storetest.Log
	calls := 0
	count := func(what string, notices func(context.Context) ([]registry.Notice, error), counted func() bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.CountNotices(ctx, func(ctx context.Context) ([]registry.Notice, error) {
				calls++
				return notices(ctx)
			}, log.Logger())
		}()
		storetest.Eventually(t, what, counted)
		cancel()
		<-done
	}
	expect := func(when string) {
		t.Helper()
		text := scrape()
		for _, line := range []string{
			`keywicket_tokens_noticed{api="velocity",notice="creator_left"} 0`,
			`keywicket_tokens_noticed{api="velocity",notice="expiring"} 1`,
			`keywicket_tokens_noticed{api="velocity",notice="unused"} 0`,
			`keywicket_tokens_noticed_age_seconds `,
			`go_goroutines`,
		} {
			if !strings.Contains(text, "\n"+line) {
				t.Errorf("%s: no %s in\n%s", when, line, text)
			}
		}
	}
	count("the tokens are counted", store.Registry.Notices, func() bool { return strings.Contains(scrape(), "keywicket_tokens_noticed{") })
	expect("after the first count")
	down := func(context.Context) ([]registry.Notice, error) { return nil, errors.New("the database is down") }
	count("the failure is logged", down, log.Contains("the database is down"))
	expect("after a failed count")
	if calls != 2 {
		t.Errorf("%d counts", calls)
	}
}
