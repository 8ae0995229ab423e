package pages

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages/titles"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/formproof"
	"github.com/keywicket/keywicket/store/console"
)

// site is the pages of one API.
type site struct {
	base     string // Config.Path
	api      API
	sessions authz.Sessions
	settings *settings.Settings
	store    *console.Store
	forms    *formproof.Guard
	log      *slog.Logger
	mux      *http.ServeMux
	sections []section
}

func newSite(c Config, api API, s *settings.Settings, store *console.Store, log *slog.Logger) (*site, error) {
	forms, err := formproof.New("keywicket_console", api.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if err := titles.Check(api.WorkspaceTokens, api.PersonalKeys, api.Apps); err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	st := &site{base: c.Path, api: api, sessions: c.Sessions, settings: s, store: store, forms: forms, log: log, mux: http.NewServeMux()}
	st.addTokens(api.WorkspaceTokens, settings.OfWorkspace)
	st.addTokens(api.PersonalKeys, settings.OfUser)
	st.addApps(api.Apps)
	if api.WorkspaceTokens != "" {
		st.page(st.addSection(titles.General, false), "", func(v *visit) error { return v.render("general.html", nil) })
		st.addActivity(titles.WorkspaceActivity, false)
	}
	if api.Apps != "" {
		st.addGrants()
	}
	st.addActivity(titles.AccountActivity, true)
	st.mux.HandleFunc("GET "+c.Path+"/{$}", st.index)
	st.mux.HandleFunc("GET "+c.Path, st.index)
	st.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&visit{w: w, Request: r, site: st, base: c.Path}).fail(http.StatusNotFound, "no_page", "")
	})
	return st, nil
}

// section is an entry of the navigation: a page, and the pages below it.
type section struct {
	Group, Title string // Developer and API Tokens; an empty Group for a page without one
	path         string // below Config.Path: /developer/api-tokens
	// account means that the section belongs to the user, not to a workspace.
	account bool
}

// addSection adds an entry to the navigation. The title has one or two parts, such as Developer > API Tokens.
func (s *site) addSection(title string, account bool) section {
	sec := section{Title: title, account: account}
	if group, rest, ok := strings.Cut(title, " > "); ok {
		sec.Group, sec.Title = group, rest
	}
	sec.path = titles.Path(title)
	s.sections = append(s.sections, sec)
	return sec
}

// maxForm is the maximum size of a form, in bytes.
const maxForm = 64 << 10

// endpoint answers a request. If it returns an error, it has written nothing.
type endpoint func(*visit) error

// page adds a page that changes nothing. The parameter `sub` is the path below the section; empty for the section itself.
func (s *site) page(sec section, sub string, show endpoint) { s.handle(http.MethodGet, sec, sub, show) }

// handle adds an endpoint that changes nothing. It checks no proof.
func (s *site) handle(method string, sec section, sub string, e endpoint) {
	s.mux.HandleFunc(method+" "+s.base+sec.path+sub, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if v, ok := s.begin(w, r, sec); ok {
			s.finish(v, e(v))
		}
	})
}

// form adds a page with a form, which the browser sends to the page's own URL. The function show writes the form, and submit acts on a
// form that this server's page has sent.
//
// If submit returns a [settings.FieldError], show writes the form again with this error, and with the values of Request.PostForm. It
// also does so with the text [visit.Alert] if the form is outdated or if another user has signed in. Then submit does not run.
func (s *site) form(sec section, sub string, show, submit endpoint) {
	s.page(sec, sub, show)
	s.mux.HandleFunc("POST "+s.base+sec.path+sub, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		v, ok := s.begin(w, r, sec)
		if !ok {
			return
		}
		if err := r.ParseForm(); err != nil {
			v.fail(http.StatusBadRequest, "unreadable", "")
			return
		}
		switch check := s.forms.Check(r); {
		case check == formproof.Forged:
			s.log.LogAttrs(r.Context(), slog.LevelWarn, "the console refused a form of another site", slog.String("path", r.URL.Path))
			v.fail(http.StatusForbidden, "forged", "")
			return
		case r.PostForm.Get("user") != v.User.ID:
			r.PostForm = nil // another user has filled it in
			v.Alert, v.status = "other_user", http.StatusConflict
		case check == formproof.Outdated:
			v.Alert, v.status = "outdated", http.StatusConflict
		default:
			err := submit(v)
			field, isField := errors.AsType[*settings.FieldError](err)
			switch {
			case isField:
				v.Mistake, v.status = field, http.StatusUnprocessableEntity
			case errors.Is(err, settings.ErrConflict):
				v.Alert, v.status = "used", http.StatusConflict
			default:
				s.finish(v, err)
				return
			}
		}
		s.finish(v, show(v))
	})
}

// begin identifies the user and the workspace. If it returns false, it has already written the response.
func (s *site) begin(w http.ResponseWriter, r *http.Request, sec section) (*visit, bool) {
	v := &visit{w: w, Request: r, site: s, base: s.base}
	user, err := s.visitor(r)
	level := ""
	if errors.Is(err, errSecondFactor) {
		level = authz.AAL2
	}
	switch {
	case err == nil:
	case !errors.Is(err, errSignedOut) && !errors.Is(err, errSecondFactor):
		s.finish(v, err)
		return v, false
	case r.Method != http.MethodGet:
		// A redirect to the sign-in page would be refused by form-action, so the page has a link.
		v.SignIn = s.signIn(r, level)
		v.fail(http.StatusForbidden, "session_over", "")
		return v, false
	case r.URL.Query().Has(returnParameter):
		v.SignIn = s.signIn(r, level)
		v.fail(http.StatusForbidden, cmp.Or(map[string]string{authz.AAL2: "second_factor"}[level], "not_known"), "")
		return v, false
	default:
		http.Redirect(w, r, s.signIn(r, level), http.StatusSeeOther)
		return v, false
	}
	v.visitor, v.section = user, &sec
	if id := r.PathValue("id"); !utf8.ValidString(id) || strings.ContainsRune(id, 0) { // Postgres would refuse the text
		v.fail(http.StatusNotFound, "not_found", "")
		return v, false
	}
	slug := r.URL.Query().Get("workspace")
	at := slices.IndexFunc(v.Memberships, func(m console.Membership) bool { return m.Slug == slug || slug == "" })
	if at >= 0 {
		v.Workspace = v.Memberships[at]
	}
	switch {
	case sec.account:
		v.Caller = s.caller(r, user, console.Membership{})
	case at < 0 && slug != "":
		v.fail(http.StatusNotFound, "no_workspace", "")
		return v, false
	default:
		v.Caller = s.caller(r, user, v.Workspace)
	}
	return v, true
}

// finish writes the response for an endpoint's error.
func (s *site) finish(v *visit, err error) {
	switch {
	case err == nil:
	case errors.Is(err, settings.ErrForbidden):
		v.fail(http.StatusForbidden, "forbidden", err.Error())
	case errors.Is(err, settings.ErrNotFound):
		v.fail(http.StatusNotFound, "not_found", err.Error())
	case errors.Is(err, settings.ErrInvalid), errors.Is(err, settings.ErrConflict):
		v.fail(http.StatusUnprocessableEntity, "invalid", err.Error())
	default:
		s.log.LogAttrs(v.Context(), slog.LevelError, "the console could not answer", slog.String("path", v.URL.Path), slog.Any("error", err))
		v.fail(http.StatusServiceUnavailable, "unavailable", "")
	}
}

// index redirects to the first page that the user may use; without one, to the first page.
func (s *site) index(w http.ResponseWriter, r *http.Request) {
	v := &visit{w: w, Request: r, site: s, base: s.base}
	if len(s.sections) == 0 {
		v.fail(http.StatusNotFound, "no_page", "")
		return
	}
	v.section = &s.sections[0]
	if slug := r.URL.Query().Get("workspace"); slug != "" {
		v.Workspace.Slug = slug
	}
	http.Redirect(w, r, v.Link(""), http.StatusSeeOther)
}
