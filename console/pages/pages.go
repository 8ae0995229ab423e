// Package pages is the console's HTML: the settings pages of each API. The pages work without script. Their texts are in the folder
// templates.
//
// A page is in a file of its own, with its template. [site.page] and [site.form] add it to an API. A function of a page returns an
// error; the site shows the error to the user, or writes the form again with the error at its field.
package pages

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages/static"
	"github.com/keywicket/keywicket/console/pages/titles"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/store/console"
)

// Config is the configuration of the pages.
type Config struct {
	// Path is the path of the pages, such as /settings.
	Path string
	APIs map[string]API
	// Sessions verifies the users' sessions.
	Sessions authz.Sessions
	// AddressLimit is the maximum number of requests per minute from one client address; 0 means no limit.
	AddressLimit int
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
	config    Config
	sites     map[string]*site // by the name of the API
	addresses *ratelimit.Limits
}

// New returns the pages.
func New(c Config, s *settings.Settings, store *console.Store, log *slog.Logger) (*Pages, error) {
	p := &Pages{config: c, sites: make(map[string]*site), addresses: ratelimit.New(c.AddressLimit)}
	for name, api := range c.APIs {
		var err error
		if p.sites[name], err = newSite(c, api, s, store, log); err != nil {
			return nil, fmt.Errorf("console.apis.%s.%w", name, err)
		}
	}
	return p, nil
}

// apiHeader is the request header in which Envoy's configuration names the API of a page. Envoy removes a client's own header.
const apiHeader = "X-Keywicket-Api"

// Handler returns the handler of the paths below Config.Path.
func (p *Pages) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		if name, ok := strings.CutPrefix(r.URL.Path, p.config.Path+titles.StaticPath); ok {
			static.Serve(w, r, name)
			return
		}
		plain := &visit{w: w, Request: r, base: p.config.Path}
		s, ok := p.sites[r.Header.Get(apiHeader)]
		if !ok {
			plain.fail(http.StatusNotFound, "no_page", "")
			return
		}
		if wait := p.addresses.Take(ratelimit.Address(r)); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			plain.fail(http.StatusTooManyRequests, "too_many", "")
			return
		}
		s.mux.ServeHTTP(w, r)
	})
}

// setHeaders sets the headers of every response. Other pages cannot frame a page, and a page loads only the files of this server.
//
// Chromium applies form-action also to redirects after a form. So no form may lead to a redirect to another origin, such as the
// sign-in page.
func setHeaders(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin") // with "no-referrer", browsers would send "Origin: null" with a form
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}
