package pages_test

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// createBy creates a token of acme on behalf of a user.
func (f *fixture) createBy(t testing.TB, user registry.User, n registry.NewToken) (token registry.Token) {
	t.Helper()
	n.Format, n.API, n.Workspace = storetest.SkLive, "velaflows", "acme"
	if err := f.Acting(t.Context(), database.Actor{Kind: database.ActorUser, ID: user.ID}, func(r *registry.Registry, _ *sqlx.Tx) (err error) {
		token, _, err = r.CreateToken(context.WithoutCancel(t.Context()), n)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return token
}

// use records requests with a token, some days ago.
func (f *fixture) use(t testing.TB, token registry.Token, daysAgo, allowed, denied int) {
	t.Helper()
	f.Exec(t, `INSERT INTO keywicket.token_use (token_id, day, allowed, denied)
		VALUES ($1, (now() AT TIME ZONE 'UTC')::date - $2::int, $3, $4)`, token.ID, daysAgo, allowed, denied)
	f.Exec(t, `INSERT INTO keywicket.token_usage (token_id, last_used_at) VALUES ($1, now() - $2::int * interval '1 day')
		ON CONFLICT (token_id) DO UPDATE SET last_used_at = GREATEST(token_usage.last_used_at, EXCLUDED.last_used_at)`, token.ID, daysAgo)
}

// showcase creates tokens of acme in every state that the list shows.
func (f *fixture) showcase(t testing.TB) map[string]registry.Token {
	t.Helper()
	tokens := map[string]registry.Token{}
	add := func(user registry.User, name string, scopes string, expires time.Duration) {
		n := registry.NewToken{Name: name, Scopes: strings.Fields(scopes)}
		if expires > 0 {
			n.ExpiresIn = &expires
		}
		tokens[name] = f.createBy(t, user, n)
	}
	const day = 24 * time.Hour
	storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "owner"))
	add(f.Bob, "Old import job", "contacts:read contacts:write", 0)
	f.Exec(t, `UPDATE keywicket.tokens SET created_at = now() - interval '200 days'`)
	add(f.Bob, "CRM sync to the warehouse in Frankfurt", "crm:read crm:create crm:update contacts:read contacts:write", 300*day)
	add(f.Ada, "Read-only dashboard", "inbox:read crm:read contacts:read analytics:read", 5*day)
	add(f.Ada, "Chatbot", "inbox:read inbox:write channels:read", 0)
	add(f.Ada, strings.Repeat("Unbreakable", 9), "admin:all", 60*day)
	add(f.Ada, "Leaked in a repository", "webhooks:read", 90*day)
	storetest.Must(f.RevokeToken(t.Context(), tokens["Leaked in a repository"].ID))
	add(f.Ada, "Trial", "tags:read", 30*day)
	f.Exec(t, `UPDATE keywicket.tokens SET created_at = now() - interval '40 days', expires_at = now() - interval '10 days' WHERE id = $1`, tokens["Trial"].ID)
	for ago := range 30 {
		f.use(t, tokens["Chatbot"], ago, 400+37*((ago*7)%11), 0)
		f.use(t, tokens["CRM sync to the warehouse in Frankfurt"], ago, 1000*((ago+2)%7), 3*(ago%5))
	}
	f.use(t, tokens["Read-only dashboard"], 3, 12, 4)
	f.use(t, tokens["Read-only dashboard"], 12, 5, 0)
	f.use(t, tokens["Old import job"], 120, 7, 0)
	if err := f.RemoveMember(t.Context(), "acme", f.Bob.ID); err != nil {
		t.Fatal(err)
	}
	return tokens
}

var rowName = regexp.MustCompile(`<span class="title"><bdi>([^<]*)</bdi>`)

// names returns the names of the listed tokens.
func (p page) names() string {
	var names []string
	for _, m := range rowName.FindAllStringSubmatch(p.text, -1) {
		names = append(names, html.UnescapeString(m[1]))
	}
	return strings.Join(names, ", ")
}

// row returns the text of a token's row, without tags.
func (p page) row(name string) string {
	for row := range strings.SplitSeq(p.text, "<tr ") {
		if strings.Contains(row, "<bdi>"+name+"</bdi>") {
			row = regexp.MustCompile(`<svg[^>]*aria-label="([^"]*)"`).ReplaceAllString(row, "($1) <svg")
			return strings.Join(strings.Fields(regexp.MustCompile(`<title>.*?</title>|<[^>]*>`).ReplaceAllString("<"+row, " ")), " ")
		}
	}
	return ""
}

func TestList(t *testing.T) {
	f := newFixture(t)
	tokens := f.showcase(t)
	b := f.browser(f.velaflows, f.Ada)
	p := b.get(t, tokensPath)
	for name, want := range map[string]string{
		"Old import job":                         "Active .* by bob@example.com Creator has left Never 120 days ago Unused for 90 days None Rotate",
		"CRM sync to the warehouse in Frankfurt": "Active .* 5 scopes crm:read crm:create .* hours? ago|just now .*allowed requests, 180 denied requests in total",
		"Read-only dashboard":                    `Active .* by Ada@example.com \d+ \w+ \d{4} Soon 3 days ago \(Requests per day in the last 30 days: 17 allowed requests, 4 denied requests in total\) 17 requests , 4 denied Rotate`,
		"Leaked in a repository":                 "Revoked sk_live_.* Never None$",
		"Trial":                                  "Expired sk_live_.* Never None$",
	} {
		if got := p.row(name); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %q does not match %s", name, got, want)
		}
	}
	for query, want := range map[string]string{
		"?q=cHat":                         "Chatbot",
		"?q=" + tokens["Chatbot"].Prefix:  "Chatbot",
		"?q=nothing":                      "",
		"?status=revoked":                 "Leaked in a repository",
		"?status=expired":                 "Trial",
		"?status=expiring":                "Read-only dashboard",
		"?status=unused":                  "Old import job",
		"?status=unheard-of&q=tr":         "Trial",
		"?q=%25":                          "",
		"?workspace=globex&q=cHat":        "",
		"?workspace=acme&q=tr&after=none": "",
	} {
		p := b.get(t, tokensPath+query)
		if got := p.names(); got != want {
			t.Errorf("%s: %d %q instead of %q", query, p.status, got, want)
		}
	}
	requirePage(t, b.get(t, tokensPath+"?q=nothing"), http.StatusOK, "No token matches.", "Show all tokens")
}

// If a user searches for a whole key, the secret part reaches neither the database, nor a page, nor a URL that a page leads to.
func TestSearchForAWholeKey(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	secret := b.submit(t, tokensPath+"/new", "name", "Export", "scope", "inbox:read").secret()
	for what, p := range map[string]page{
		"the form": b.do(t, http.MethodPost, tokensPath+"?workspace=acme", b.get(t, tokensPath).form("q", secret)), "a URL": b.get(t, tokensPath+"?q="+secret),
	} {
		requirePage(t, p, http.StatusSeeOther)
		if strings.Contains(p.location+p.text, secret) {
			t.Errorf("%s: to %s: %s", what, p.location, p.text)
		}
		if p = b.get(t, p.location); p.names() != "Export" || strings.Contains(p.text, secret) {
			t.Errorf("%s: %q: %s", what, p.names(), p.text)
		}
	}
	if log := f.log.String(); strings.Contains(log, secret) {
		t.Error(log)
	}
}

func TestPagesOfTheList(t *testing.T) {
	f := newFixture(t)
	for i := range 60 {
		f.Create(t, registry.NewToken{Format: storetest.SkLive, API: "velaflows", Name: fmt.Sprintf("token-%02d", i), Scopes: []string{"inbox:read"}, Workspace: "acme"})
	}
	b := f.browser(f.velaflows, f.Ada)
	next := regexp.MustCompile(`<a class="button" href="([^"]*)">Next page</a>`)
	for _, first := range []string{tokensPath, tokensPath + "?q=token-&status=active"} {
		var all []string
		for target := first; target != ""; {
			p := b.get(t, target)
			requirePage(t, p, http.StatusOK)
			all = append(all, strings.Split(p.names(), ", ")...)
			if target = ""; next.MatchString(p.text) {
				target = html.UnescapeString(next.FindStringSubmatch(p.text)[1])
			}
		}
		if len(all) != 60 || all[0] == all[59] {
			t.Errorf("%s: %d tokens: %v", first, len(all), all)
		}
	}
}

// The page that asks for confirmation says what will stop working.
func TestRevocationSaysWhatStopsWorking(t *testing.T) {
	f := newFixture(t)
	tokens := f.showcase(t)
	b := f.browser(f.velaflows, f.Ada)
	requirePage(t, b.get(t, tokensPath+"/"+tokens["Read-only dashboard"].ID+"/revoke"), http.StatusOK,
		"Revoke <bdi>Read-only dashboard</bdi>?", tokens["Read-only dashboard"].Prefix, "3 days ago", "the app or script that sent 12 allowed requests with this token in the last 7 days")
	requirePage(t, b.get(t, tokensPath+"/"+tokens["Old import job"].ID+"/revoke"), http.StatusOK, "No use in the last 7 days is recorded", "120 days ago")
	// The sidecars have written the last use, and not yet the number of requests.
	f.Exec(t, `UPDATE keywicket.token_usage SET last_used_at = now() - interval '130 minutes' WHERE token_id = $1`, tokens["Old import job"].ID)
	requirePage(t, b.get(t, tokensPath+"/"+tokens["Old import job"].ID+"/revoke"), http.StatusOK, "the app or script that used this token 2 hours ago")
	requirePage(t, b.get(t, tokensPath+"/"+tokens["Trial"].ID+"/rotate"), http.StatusOK, "The token is expired, so it cannot be rotated.")
	requirePage(t, b.get(t, tokensPath+"/"+tokens["Leaked in a repository"].ID+"/revoke"), http.StatusOK, "is already revoked")
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens WHERE kind = $1`, authz.KindWorkspaceToken); n != len(tokens) {
		t.Errorf("%d tokens", n)
	}
}
