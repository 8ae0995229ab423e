package config

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Console is the section "console" of the configuration file: the configuration of `keywicket console`.
type Console struct {
	Listen string `yaml:"listen"`
	// Path is the path of the pages.
	Path string `yaml:"path"`
	// AddressLimit is the maximum number of requests per minute from one client address; 0 means no limit.
	AddressLimit int                   `yaml:"address_limit"`
	APIs         map[string]ConsoleAPI `yaml:"apis"`
	// Scanner is the endpoint for secret scanners.
	Scanner ConsoleScanner `yaml:"scanner"`
}

// ConsoleScanner is the configuration of the endpoint for secret scanners.
type ConsoleScanner struct {
	// KeysURL is the URL of the scanner's public keys. Empty: there is no endpoint.
	KeysURL string `yaml:"keys_url"`
}

// ConsoleAPI is the configuration of one API's pages.
type ConsoleAPI struct {
	// URL is the origin of the pages, such as https://app.velaflows.com. Empty: the API has no pages and no management API.
	URL string `yaml:"url"`
	// Cookie is the name of the cookie with the users' sessions, and SignIn the URL of the sign-in page.
	Cookie string       `yaml:"cookie"`
	SignIn string       `yaml:"sign_in"`
	Pages  ConsolePages `yaml:"pages"`
}

// ConsolePages are the titles of the pages. A title has one or two parts, such as Developer > API Tokens. The path of the page
// follows from its title: developer/api-tokens.
type ConsolePages struct {
	WorkspaceTokens string `yaml:"workspace_tokens"`
	PersonalKeys    string `yaml:"personal_keys"`
	Apps            string `yaml:"apps"`
}

var (
	consolePath = regexp.MustCompile(`^(/[a-z0-9_-]+)+$`)
	pageTitle   = regexp.MustCompile(`^[A-Za-z0-9]+( [A-Za-z0-9]+)*( > [A-Za-z0-9]+( [A-Za-z0-9]+)*)?$`)
)

// complete validates the section. The text of an error starts with the configuration key.
func (c *Console) complete() error {
	if c.Listen == "" {
		return errors.New("listen: empty; write host:port or unix:///path")
	}
	if !consolePath.MatchString(c.Path) {
		return fmt.Errorf("path: %q is not a path such as /settings", c.Path)
	}
	for _, own := range []string{"/livez", "/readyz", "/metrics", strings.TrimSuffix(authz.ConsolePath, "/")} {
		if strings.HasPrefix(c.Path+"/", own+"/") {
			return fmt.Errorf("path: %q is a path of the console itself: choose another path, such as /settings", c.Path)
		}
	}
	if c.AddressLimit < 0 {
		return errors.New("address_limit: give a number of requests per minute, or 0 for no limit")
	}
	byURL := make(map[string]string) // the name of the API with these pages
	for _, name := range slices.Sorted(maps.Keys(c.APIs)) {
		if err := c.APIs[name].validate(); err != nil {
			return fmt.Errorf("apis.%s.%w", name, err)
		}
		if other, ok := byURL[c.APIs[name].URL]; ok {
			return fmt.Errorf("apis.%s.url: %s has the same origin: give each API an origin of its own, because the paths of the pages are equal", name, other)
		}
		if url := c.APIs[name].URL; url != "" {
			byURL[url] = name
		}
	}
	return nil
}

func (a ConsoleAPI) validate() error {
	if a.URL == "" {
		return nil
	}
	if u, ok := parseHTTP(a.URL); !ok || a.URL != u.Scheme+"://"+u.Host {
		return fmt.Errorf("url: %q is not an origin such as https://app.velaflows.com; http is only for 127.0.0.1, [::1] and localhost", a.URL)
	}
	if _, ok := parseHTTP(a.SignIn); !ok {
		return errors.New("sign_in: give the URL of the sign-in page, such as https://app.velaflows.com/login; http is only for 127.0.0.1, [::1] and localhost")
	}
	if (&http.Cookie{Name: a.Cookie}).Valid() != nil {
		return errors.New("cookie: give the name of the cookie with the users' sessions, such as sb-PROJECT-auth-token")
	}
	for _, title := range []string{a.Pages.WorkspaceTokens, a.Pages.PersonalKeys, a.Pages.Apps} {
		if title != "" && !pageTitle.MatchString(title) {
			return fmt.Errorf("pages: the title %q is not valid: write words of letters and digits, such as Developer > API Tokens", title)
		}
	}
	return nil
}

// parseHTTP parses an https URL, or an http URL of this machine.
func parseHTTP(text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, false
	}
	return u, u.Scheme == "https" || u.Scheme == "http" && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())
}
