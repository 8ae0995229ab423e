package pages

import (
	"crypto/rand"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages/choices"
	"github.com/keywicket/keywicket/console/pages/words"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
)

// appPages are the pages of the apps that a user registered.
type appPages struct {
	*site
	section section
}

// addApps adds the pages of apps. Without a title, it adds nothing.
func (s *site) addApps(title string) {
	if title == "" {
		return
	}
	a := &appPages{s, s.addSection(title, true)}
	s.page(a.section, "", a.list)
	s.form(a.section, "/new", a.showRegister, a.register)
	s.page(a.section, "/{id}", a.one)
	s.form(a.section, "/{id}/rotate", a.showRotate, a.rotate)
	s.form(a.section, "/{id}/delete", a.showDelete, a.delete)
}

// appRow is an app with what the pages say about it.
type appRow struct{ console.App }

// UserCount returns the number of users whose grants are active, as text.
func (a appRow) UserCount() string { return words.Count(int64(a.Users), "user") }

// appList is the data of the template app_list.html.
type appList struct {
	Allowed bool // the user may manage apps
	Rows    []appRow
	Deleted *appRow // the user has just deleted this app
}

func (a *appPages) list(v *visit) error {
	l := appList{Allowed: v.Caller.MayManageApps() == nil}
	if !l.Allowed {
		return v.render("app_list.html", l)
	}
	apps, err := a.settings.Apps(v.Context(), v.Caller)
	if err != nil {
		return err
	}
	for _, app := range apps {
		row := appRow{app}
		l.Rows = append(l.Rows, row)
		if app.ID == v.URL.Query().Get("deleted") && app.RevokedAt != nil {
			l.Deleted = &row
		}
	}
	return v.render("app_list.html", l)
}

// appForm is the form of the page on which users register an app.
type appForm struct {
	Name, RedirectURIs        string
	Scopes                    []string
	Confidential, Development bool
	Key                       string // idempotency key
}

func readAppForm(f url.Values) appForm {
	return appForm{
		Name: f.Get("name"), RedirectURIs: strings.Join(f["redirect_uris"], "\n"), Scopes: f["scope"],
		Confidential: f.Get("type") == "confidential", Development: f.Get("development") == "yes", Key: f.Get("key"),
	}
}

// appRegister is the data of the template app_register.html.
type appRegister struct {
	Form   appForm
	Levels []choices.Level
}

func (a *appPages) showRegister(v *visit) error {
	if err := v.Caller.MayManageApps(); err != nil {
		return err
	}
	var r appRegister
	if v.PostForm != nil {
		r.Form = readAppForm(v.PostForm)
	}
	if v.Alert == "used" || r.Form.Key == "" {
		r.Form.Key = rand.Text()
	}
	account, workspaces := choices.Level{Account: true}, choices.Level{}
	for _, scope := range a.api.AppScopes() {
		level := &account
		if scope.Workspace {
			level = &workspaces
		}
		level.Add(choices.Scope{Name: scope.Name, Description: scope.Description, Checked: slices.Contains(r.Form.Scopes, scope.Name)})
	}
	r.Levels = []choices.Level{account, workspaces}
	return v.render("app_register.html", r)
}

// register registers an app and shows its secret.
func (a *appPages) register(v *visit) error {
	f := readAppForm(v.PostForm)
	if f.Key == "" || v.PostForm.Get("type") == "" {
		return errIncomplete
	}
	created, err := a.settings.RegisterApp(v.Context(), v.Caller, settings.NewApp{
		Name: f.Name, RedirectURIs: strings.Fields(f.RedirectURIs), Scopes: f.Scopes, Confidential: f.Confidential, Development: f.Development,
		IdempotencyKey: f.Key,
	})
	if err != nil {
		return err
	}
	if !created.Repeated {
		a.logChange(v, "a user has registered an app", created.Object)
	}
	return a.showSecret(v, created.Object, created.Secret, false)
}

// appSecret is the data of the template app_secret.html. Secret is empty if an earlier request has registered the app.
type appSecret struct {
	App     appRow
	Secret  string
	Rotated bool
}

// showSecret writes the page with the secret of an app. The secret is in no other response.
func (a *appPages) showSecret(v *visit, app console.App, secret authz.Secret, rotated bool) error {
	s := appSecret{App: appRow{app}, Rotated: rotated}
	if secret != "" {
		s.Secret = secret.Reveal()
	}
	return v.render("app_secret.html", s)
}

// appPage is the data of the templates of one app.
type appPage struct{ App appRow }

func (a *appPages) show(v *visit, file string) error {
	app, err := a.settings.App(v.Context(), v.Caller, v.PathValue("id"))
	if err != nil {
		return err
	}
	return v.render(file, appPage{appRow{app}})
}

func (a *appPages) one(v *visit) error        { return a.show(v, "app.html") }
func (a *appPages) showRotate(v *visit) error { return a.show(v, "app_rotate.html") }
func (a *appPages) showDelete(v *visit) error { return a.show(v, "app_delete.html") }

func (a *appPages) rotate(v *visit) error {
	app, secret, err := a.settings.RotateAppSecret(v.Context(), v.Caller, v.PathValue("id"))
	if err != nil {
		return err
	}
	a.logChange(v, "a user has rotated the secret of an app", app)
	return a.showSecret(v, app, secret, true)
}

func (a *appPages) delete(v *visit) error {
	app, err := a.settings.RevokeApp(v.Context(), v.Caller, v.PathValue("id"))
	if err != nil {
		return err
	}
	a.logChange(v, "a user has deleted an app", app)
	return v.redirect(v.Link("", "deleted", app.ID))
}

// logChange logs what a user has done with an app.
func (a *appPages) logChange(v *visit, message string, app console.App) {
	a.log.LogAttrs(v.Context(), slog.LevelInfo, message, slog.String("api", a.api.Name), slog.String("client_id", app.ID), slog.String("user_id", v.User.ID))
}
