package pages_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

const (
	appsPath     = "/settings/oauth-apps"
	grantsPath   = "/settings/account/authorized-apps"
	activityPath = "/settings/activity"
	accountPath  = "/settings/account/activity"
)

var clientIDField = regexp.MustCompile(`<input id="client-id"[^>]* value="([^"]*)"`)

// approve lets ada allow the app in acme, as the consent page does.
func (f *fixture) approve(t testing.TB, app string) {
	t.Helper()
	i := storetest.Must(issuer.Open(storetest.WithOption(f.URL, "role", "keywicket_issuer")))
	defer func() { _ = i.Close() }()
	storetest.Must(i.Approve(t.Context(), issuer.Approval{
		Client: app, User: f.Ada.ID, Workspaces: []string{f.Acme.ID}, Scopes: []string{"issues:read", "user:read"},
		RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43),
	}))
}

// A user registers an app, rotates its secret and deletes it. Another user authorizes it, and sees when its access has ended.
func TestLifeOfAnApp(t *testing.T) {
	f := newFixture(t)
	bob, ada := f.browser(f.velocity, f.Bob), f.browser(f.velocity, f.Ada)
	requirePage(t, bob.get(t, appsPath), http.StatusOK, "You have registered no apps yet.")
	registered := bob.submit(t, appsPath+"/new", "name", "Planner", "redirect_uris", "https://planner.example/cb http://127.0.0.1/cb", "type", "confidential", "scope", "issues:read")
	requirePage(t, registered, http.StatusOK, "it will only be shown once", "Planner", "https://planner.example/cb", "issues:read", "it must always send its secret")
	id := clientIDField.FindStringSubmatch(registered.text)[1]
	checkSecret := func(secret string) {
		t.Helper()
		want := authz.Secret(secret).Digest()
		if got := storetest.Value[[]byte](t, f.DB, `SELECT secret_digest FROM keywicket.oauth_apps WHERE id = $1`, id); string(got) != string(want[:]) {
			t.Errorf("%q is not the app's secret", secret)
		}
	}
	checkSecret(registered.secret())
	f.approve(t, id)
	for _, path := range []string{appsPath, appsPath + "/" + id} {
		p := bob.get(t, path)
		requirePage(t, p, http.StatusOK, "Planner", id, "1 user", "Active")
		if strings.Contains(p.text, registered.secret()) {
			t.Errorf("%s shows the secret", path)
		}
	}
	requirePage(t, bob.get(t, appsPath+"/"+id+"/rotate"), http.StatusOK, "Rotate the secret of <bdi>Planner</bdi>?", "The old secret ends immediately")
	rotated := bob.submit(t, appsPath+"/"+id+"/rotate")
	requirePage(t, rotated, http.StatusOK, "the old one no longer works")
	if rotated.secret() == registered.secret() {
		t.Error("the secret is still the old one")
	}
	checkSecret(rotated.secret())

	granted := ada.get(t, grantsPath)
	requirePage(t, granted, http.StatusOK, "Planner", "Read issues and comments", "In your whole account", "In <bdi>Acme</bdi>", "Never")
	requirePage(t, bob.get(t, grantsPath), http.StatusOK, "No app has access to your account.")
	requirePage(t, ada.get(t, appsPath+"/"+id), http.StatusNotFound, "You have no such app.")
	requirePage(t, ada.do(t, http.MethodPost, appsPath+"/"+id+"/delete", ada.get(t, appsPath+"/new").form()), http.StatusNotFound, "You have no such app.")

	requirePage(t, bob.get(t, appsPath+"/"+id+"/delete"), http.StatusOK, "Delete <bdi>Planner</bdi>?", "the access of 1 user to <bdi>Planner</bdi> ends immediately")
	deleted := bob.submit(t, appsPath+"/"+id+"/delete")
	requirePage(t, deleted, http.StatusSeeOther)
	requirePage(t, bob.get(t, deleted.location), http.StatusOK, "is deleted", "Deleted", "0 users")
	requirePage(t, ada.get(t, grantsPath), http.StatusOK, "No app has access to your account.")
	requirePage(t, bob.get(t, appsPath+"/"+id+"/rotate"), http.StatusOK, "so it has no secret")
	if log := f.log.String(); strings.Contains(log, registered.secret()) || strings.Contains(log, rotated.secret()) || !strings.Contains(log, "a user has deleted an app") {
		t.Errorf("the log is %s", log)
	}
}

// A sent form registers one app, also if the browser sends it twice.
func TestAppIsRegisteredOnce(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velocity, f.Bob)
	form := b.get(t, appsPath+"/new").form("name", "Planner", "redirect_uris", "https://planner.example/cb")
	first := b.do(t, http.MethodPost, appsPath+"/new", form)
	requirePage(t, first, http.StatusOK, "it will only be shown once")
	again := b.do(t, http.MethodPost, appsPath+"/new", form)
	requirePage(t, again, http.StatusOK, "This app was already registered")
	if again.secret() != "" {
		t.Error("the secret is shown again")
	}
	form.Set("name", "Other")
	requirePage(t, b.do(t, http.MethodPost, appsPath+"/new", form), http.StatusConflict, "already sent with other values")
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.oauth_apps`); n != 1 {
		t.Errorf("%d apps", n)
	}
}

// A mistake is shown at its field, and the form keeps its values.
func TestMistakesInTheFormOfAnApp(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velocity, f.Bob)
	for _, c := range []struct{ name, uris, text string }{
		{"", "https://planner.example/cb", "Give the app a name."},
		{"Planner", "", "An app must have 1 to 20 redirect URIs"},
		{"Planner", "https://planner.example/cb http://localhost/cb", "mark the app as an app in development"},
		{"Planner", "javascript:alert(1)", "must be an https URI"},
	} {
		p := b.submit(t, appsPath+"/new", "name", c.name, "redirect_uris", c.uris, "scope", "issues:write")
		requirePage(t, p, http.StatusUnprocessableEntity, "Nothing was changed.", `aria-describedby="`, `class="mistake"`, strings.Join(strings.Fields(c.uris), "\n"), `value="issues:write" checked`)
		requirePage(t, p, p.status, c.text)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.oauth_apps`); n != 0 {
		t.Errorf("%d apps", n)
	}
}

// A user ends the access of one app, and not of another. Somebody else cannot.
func TestUserRevokesAGrant(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"Planner", "Reporter"} {
		_, _, err := f.CreateApp(t.Context(), registry.NewApp{ID: name, API: "velocity", Name: name, RedirectURIs: []string{"https://planner.example/cb"}})
		if err != nil {
			t.Fatal(err)
		}
		f.approve(t, name)
	}
	ada, bob := f.browser(f.velocity, f.Ada), f.browser(f.velocity, f.Bob)
	id := storetest.Value[string](t, f.DB, `SELECT id FROM keywicket.oauth_grants WHERE app_id = 'Planner'`)
	path := grantsPath + "/" + id + "/revoke"
	requirePage(t, bob.get(t, path), http.StatusNotFound, "You have authorized no such app.")
	requirePage(t, bob.do(t, http.MethodPost, path, bob.get(t, appsPath+"/new").form()), http.StatusNotFound)
	requirePage(t, ada.get(t, path), http.StatusOK, "Revoke the access of <bdi>Planner</bdi>?", "will be denied immediately", "In <bdi>Acme</bdi>")
	revoked := ada.submit(t, path)
	requirePage(t, revoked, http.StatusSeeOther)
	list := ada.get(t, revoked.location)
	requirePage(t, list, http.StatusOK, "The access of <bdi>Planner</bdi> is revoked.", "Reporter")
	if storetest.Value[bool](t, f.DB, `SELECT revoked_at IS NULL FROM keywicket.oauth_grants WHERE id = $1`, id) {
		t.Error("the grant is still valid")
	}
	requirePage(t, ada.get(t, path), http.StatusOK, "no longer has this access")
}

// The activity of a workspace is for its managers. The activity of an account is for its user.
func TestActivityPages(t *testing.T) {
	f := newFixture(t)
	ada, bob := f.browser(f.velocity, f.Ada), f.browser(f.velocity, f.Bob)
	requirePage(t, ada.submit(t, keysPath+"/new", "name", "Export<b>", "scope", "issues:read", "expiry", "30"), http.StatusOK)
	requirePage(t, bob.submit(t, personalPath+"/new", "name", "Laptop", "scope", "user:read", "expiry", "30"), http.StatusOK)
	requirePage(t, ada.get(t, activityPath), http.StatusOK, "Ada@example.com created the key Export<b> (vel_", "The operator created the workspace Acme.", "issues:read", `<code class="address">127.0.0.1</code>`)
	own := ada.get(t, accountPath)
	requirePage(t, own, http.StatusOK, "The operator created the account Ada@example.com.")
	if strings.Contains(own.text, "Laptop") {
		t.Error("ada sees bob's key")
	}
	requirePage(t, bob.get(t, accountPath), http.StatusOK, "bob@example.com created the key Laptop (velu_")
	requirePage(t, bob.get(t, activityPath), http.StatusOK, "You are not a member of a workspace")
	guest := ada.get(t, activityPath+"?workspace=globex")
	requirePage(t, guest, http.StatusOK, "your role in this workspace is <strong>guest</strong>")
	if strings.Contains(guest.text, "Globex.") {
		t.Error("a guest sees the activity")
	}
	filtered := ada.get(t, activityPath+"?action=create&kind=token&actor=ada@example.com")
	requirePage(t, filtered, http.StatusOK, "Export<b>", `value="token" selected`)
	if strings.Contains(filtered.text, "The operator") {
		t.Error("the filter has no effect")
	}
	requirePage(t, ada.get(t, activityPath+"?actor=nobody@example.com"), http.StatusOK, "Nothing matches.")
	requirePage(t, ada.get(t, activityPath+"?actor=%00"), http.StatusUnprocessableEntity, "cannot be searched")
	requirePage(t, ada.get(t, activityPath+"?after=x"), http.StatusUnprocessableEntity, "The cursor is not valid")
	requirePage(t, ada.get(t, activityPath+"?action=x"), http.StatusUnprocessableEntity, "must be one of")
	for range 30 {
		storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "guest"))
		storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "member"))
	}
	first := ada.get(t, activityPath+"?kind=member")
	next := regexp.MustCompile(`href="([^"]*after=[^"]*)"`).FindStringSubmatch(first.text)
	if next == nil {
		t.Fatalf("there is no next page: %s", first.text)
	}
	requirePage(t, ada.get(t, strings.ReplaceAll(next[1], "&amp;", "&")), http.StatusOK, "First page", "The operator changed the role of bob@example.com")
}

// An API without apps has no pages of apps. Its account has activity.
func TestAPIWithoutApps(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	for _, path := range []string{appsPath, grantsPath} {
		requirePage(t, b.get(t, path), http.StatusNotFound, "This address has no page.")
	}
	requirePage(t, b.get(t, activityPath), http.StatusOK, "The operator created the workspace Acme.")
	requirePage(t, b.get(t, accountPath), http.StatusOK, "The operator created the account")
}

// The page of a workspace's tokens says what happens to the tokens of people who leave. A manager changes it.
func TestLeaverRulePage(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	requirePage(t, b.get(t, tokensPath), http.StatusOK, "When the person who created a token leaves the workspace: The token keeps working, and the list marks it.")
	requirePage(t, b.get(t, tokensPath+"/leavers"), http.StatusOK, `value="mark" checked`)
	requirePage(t, b.submit(t, tokensPath+"/leavers", "leaver_rule", ""), http.StatusUnprocessableEntity, "Choose what happens")
	requirePage(t, b.submit(t, tokensPath+"/leavers", "leaver_rule", "end"), http.StatusSeeOther)
	requirePage(t, b.get(t, tokensPath), http.StatusOK, "leaves the workspace: The token is revoked.")
	requirePage(t, b.get(t, tokensPath+"/leavers?workspace=globex"), http.StatusForbidden)
	requirePage(t, f.browser(f.velocity, f.Ada).get(t, personalPath+"/leavers"), http.StatusNotFound)
}
