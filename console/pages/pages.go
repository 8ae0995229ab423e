// Package pages is the console's HTML: the settings pages of each API. The pages work without script.
package pages

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/oauth/sessioncookie"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
)

// Config is the configuration of the pages.
type Config struct {
	// Path is the path of the pages, such as /settings.
	Path string
	APIs map[string]API
	// Sessions verifies the users' sessions.
	Sessions authz.Sessions
}

// API is the configuration of one API's pages.
type API struct {
	settings.API
	// URL is the origin of the pages. Cookie is the name of the cookie with the users' sessions. SignIn is the URL of the sign-in
	// page: the pages add the parameter return_to.
	URL, Cookie, SignIn string
	// These are the titles of the pages, such as Developer > API Tokens. The path of a page follows from its title. An API has no
	// page without a title.
	WorkspaceTokens, PersonalKeys, Apps string
}

// Pages serves the pages. It is safe for concurrent use.
type Pages struct {
	config   Config
	settings *settings.Settings
	store    *console.Store
	log      *slog.Logger
}

// New returns the pages.
func New(c Config, s *settings.Settings, store *console.Store, log *slog.Logger) *Pages {
	return &Pages{config: c, settings: s, store: store, log: log}
}

// Handler returns the handler of the paths below Config.Path.
func (p *Pages) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+p.config.Path, p.index)
	return mux
}

// index is a placeholder for the list of pages.
func (p *Pages) index(w http.ResponseWriter, r *http.Request) {
	v, err := p.visitor(r)
	switch {
	case errors.Is(err, errSignedOut), errors.Is(err, errSecondFactor):
		http.Redirect(w, r, v.signIn(r), http.StatusSeeOther)
	case err != nil:
		http.Error(w, "The server cannot answer at the moment. Try again.", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, v.User.Email)
	}
}

// apiHeader is the request header in which Envoy's configuration names the API of a page. Envoy removes a client's own header.
const apiHeader = "X-Keywicket-Api"

// visitor is a user who has opened a page.
type visitor struct {
	api         API
	User        console.User
	Memberships []console.Membership
	source      string
	requestID   string
}

var (
	errNoAPI        = errors.New("the request names no API with pages")
	errSignedOut    = errors.New("no user is signed in")
	errSecondFactor = errors.New("the user has signed in without a second factor")
)

// visitor returns the user whose session is in the request's cookie. It accepts the same sessions as the sidecar.
func (p *Pages) visitor(r *http.Request) (visitor, error) {
	api, ok := p.config.APIs[r.Header.Get(apiHeader)]
	if !ok {
		return visitor{}, errNoAPI
	}
	v := visitor{api: api, source: ratelimit.Address(r), requestID: r.Header.Get("X-Request-Id")}
	token, ok := sessioncookie.Token(r, api.Cookie)
	if !ok {
		return v, errSignedOut
	}
	verified, err := p.config.Sessions.Verify(r.Context(), api.Name, token)
	switch {
	case err != nil:
		return v, err
	case verified.Denial != "":
		return v, errSignedOut
	}
	v.User, err = p.store.SessionUser(r.Context(), verified.Session)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return v, errSignedOut
	case err != nil:
		return v, err
	case api.Sessions.SecondFactorMissing(verified.AAL, v.User.MFAEnrolled):
		return v, errSecondFactor
	}
	v.Memberships, err = p.store.Memberships(r.Context(), v.User.ID)
	return v, err
}

// caller returns the visitor as the caller of an operation in a workspace. An empty slug is for operations outside of workspaces. It
// returns false if the user is not a member of the workspace.
func (v visitor) caller(slug string) (settings.Caller, bool) {
	c := settings.Caller{
		API: v.api.API, User: v.User,
		Actor: database.Actor{Kind: database.ActorUser, ID: v.User.ID, Source: v.source, RequestID: v.requestID},
		Maker: issuance.Maker{Kind: authz.KindSession, Scopes: v.api.Sessions.Scopes},
	}
	if slug == "" {
		return c, true
	}
	for _, m := range v.Memberships {
		if m.Slug == slug {
			c.Workspace, c.Maker.Role = m, m.Role
			return c, true
		}
	}
	return c, false
}

// signIn returns the URL of the sign-in page, from which the user returns to the requested page.
func (v visitor) signIn(r *http.Request) string {
	u, err := url.Parse(v.api.SignIn)
	if err != nil {
		return v.api.SignIn
	}
	query := u.Query()
	query.Set("return_to", v.api.URL+r.URL.RequestURI())
	u.RawQuery = query.Encode()
	return u.String()
}

// unavailable logs a failure of the server.
func (p *Pages) unavailable(ctx context.Context, r *http.Request, err error) {
	p.log.LogAttrs(ctx, slog.LevelError, "the console could not answer", slog.String("path", strings.TrimPrefix(r.URL.Path, p.config.Path)), slog.Any("error", err))
}
