package pages

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"sync"

	"github.com/keywicket/keywicket/console/pages/static"
	"github.com/keywicket/keywicket/console/pages/titles"
	"github.com/keywicket/keywicket/console/pages/words"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
)

// visit is a request for a page, and what all templates read.
type visit struct {
	*http.Request
	visitor
	site *site // nil: the request names no API
	w    http.ResponseWriter
	base string // Config.Path

	section *section // nil: the page belongs to no section
	// Workspace is the chosen workspace, also on pages of the account; zero if the user is in no workspace. Caller acts in this
	// workspace on the pages of a workspace, and outside of workspaces on the pages of the account.
	Workspace console.Membership
	Caller    settings.Caller

	// Alert is a word for which the template alert.html has a text. Mistake is an error in a field of the sent form.
	Alert   string
	Mistake *settings.FieldError
	// SignIn is the URL of the sign-in page, if the user has to sign in again.
	SignIn string
	status int // 0: http.StatusOK
	// Page is the data of the page's own template.
	Page any
}

//go:embed templates/*.html
var templateFiles embed.FS

// templates are the pages by the name of their file. Each page has the layout, and the files that start with an underscore.
var templates = sync.OnceValue(parseTemplates)

func parseTemplates() map[string]*template.Template {
	pages := make(map[string]*template.Template)
	shared := template.Must(template.New("").Funcs(words.Functions).ParseFS(templateFiles, "templates/_*.html"))
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	for _, f := range files {
		if f.Name()[0] != '_' {
			pages[f.Name()] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, path.Join("templates", f.Name())))
		}
	}
	return pages
}

// render writes a page. The parameter `file` is the name of its template, and `data` is the template's Page.
func (v *visit) render(file string, data any) error {
	v.Page = data
	var page bytes.Buffer
	if err := templates()[file].ExecuteTemplate(&page, "layout", v); err != nil {
		return err
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.status != 0 {
		v.w.WriteHeader(v.status)
	}
	_, _ = page.WriteTo(v.w) // an error means that the client has closed the connection
	return nil
}

// failure is the data of the template error.html. Code is a word for which this template has a text. Detail is a further sentence.
type failure struct{ Code, Detail string }

// fail writes a page that shows only an error.
func (v *visit) fail(status int, code, detail string) {
	v.status = status
	if err := v.render("error.html", failure{code, detail}); err != nil {
		http.Error(v.w, http.StatusText(status), status)
		if v.site != nil {
			v.site.log.LogAttrs(v.Context(), slog.LevelError, "a page could not be written", slog.Any("error", err))
		}
	}
}

// redirect leads to another page after a form.
func (v *visit) redirect(to string) error {
	http.Redirect(v.w, v.Request, to, http.StatusSeeOther)
	return nil
}

// The following methods are for templates.

// Link returns the URL of a page of the section, in the chosen workspace. The parameter `sub` is the path below the section, such as
// /new. The parameters `pairs` are names and values of the query.
func (v *visit) Link(sub string, pairs ...string) string { return v.linkTo(*v.section, sub, pairs...) }

func (v *visit) linkTo(s section, sub string, pairs ...string) string {
	query := url.Values{}
	if v.Workspace.Slug != "" {
		query.Set("workspace", v.Workspace.Slug)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	u := url.URL{Path: v.base + s.path + sub, RawQuery: query.Encode()}
	return u.String()
}

// SectionURL returns the URL of the section.
func (v *visit) SectionURL() string { return v.Link("") }

// Home returns the URL that leads to the first page.
func (v *visit) Home() string { return v.base }

// Proof returns the value of a form's field "proof", and sets the cookie with the same value.
func (v *visit) Proof() string { return v.site.forms.Issue(v.w, v.Request) }

// Style and Script return the URLs of the static files.
func (v *visit) Style() string { return v.base + titles.StaticPath + static.Style }

// Script returns the URL of the script.
func (v *visit) Script() string { return v.base + titles.StaticPath + static.Script }

// Title returns the title of the section.
func (v *visit) Title() string { return v.section.Title }

// InWorkspace reports whether the page belongs to a workspace.
func (v *visit) InWorkspace() bool { return v.section != nil && !v.section.account }

// HasSection reports whether the page belongs to a section, and its user is known.
func (v *visit) HasSection() bool { return v.section != nil && v.User.ID != "" }

// MistakeIn returns the text of an error in the field; empty if there is none.
func (v *visit) MistakeIn(field string) string {
	if v.Mistake == nil || v.Mistake.Field != field {
		return ""
	}
	return v.Mistake.Text
}

// navGroup is a heading of the navigation, with its entries.
type navGroup struct {
	Title   string
	Entries []navEntry
}

type navEntry struct {
	Title, URL string
	Current    bool
}

// AccountSections returns the sections that belong to the user.
func (v *visit) AccountSections() []navEntry {
	var entries []navEntry
	for _, s := range v.site.sections {
		if s.account {
			entries = append(entries, navEntry{Title: s.Title, URL: v.linkTo(s, "")})
		}
	}
	return entries
}

// Nav returns the navigation. Sections of the same group are together. The sections without a group are first, because below a group
// they would seem to belong to it.
func (v *visit) Nav() []navGroup {
	groups := make([]navGroup, 1)
	at := map[string]int{"": 0}
	for _, s := range v.site.sections {
		i, ok := at[s.Group]
		if !ok {
			i = len(groups)
			at[s.Group] = i
			groups = append(groups, navGroup{Title: s.Group})
		}
		groups[i].Entries = append(groups[i].Entries, navEntry{s.Title, v.linkTo(s, ""), v.section.path == s.path})
	}
	if len(groups[0].Entries) == 0 {
		groups = groups[1:]
	}
	return groups
}
