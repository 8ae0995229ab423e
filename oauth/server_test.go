package oauth_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/oauth"
)

// After an internal error, the status is 503. The server logs the error, and the response contains no details.
func TestUnreachableDatabase(t *testing.T) {
	i := newFixture(t)
	request := i.exchangeForm(t, i.public)
	if err := i.Issuer.Close(); err != nil {
		t.Fatal(err)
	}
	r := i.send(t, "/api/oauth/token", request)
	if r.status != 503 || r.text("error") != "temporarily_unavailable" || r.header.Get("Retry-After") == "" || len(r.body) != 1 {
		t.Errorf("%+v", r)
	}
	if text := i.log.String(); !strings.Contains(text, "could not answer") || strings.Contains(text, request["code"]) || strings.Contains(text, verifier) {
		t.Errorf("the log: %s", text)
	}
}

// RFC 8414, section 2, and RFC 9207, section 2: an issuer is an https URL without a query or a fragment. An http URL is allowed
// only with a loopback address, for local development. A path is refused, because it would change the path of the metadata (RFC
// 8414, section 3).
func TestIssuerURL(t *testing.T) {
	i := newFixture(t)
	for issuer, valid := range map[string]bool{
		"https://velocity.quest":          true,
		"https://velocity.quest:8443":     true,
		"http://127.0.0.1:8001":           true,
		"http://[::1]:8001":               true,
		"http://localhost:8001":           true,
		"":                                false,
		"velocity.quest":                  false,
		"http://velocity.quest":           false,
		"http://127.0.0.1.velocity.quest": false,
		"https://velocity.quest/":         false,
		"https://velocity.quest/oauth":    false,
		"https://velocity.quest?x=1":      false,
		"https://velocity.quest?":         false,
		"https://velocity.quest#x":        false,
		"https://velocity.quest#":         false,
		"https://ada@velocity.quest":      false,
		"ftp://velocity.quest":            false,
		"https://Velocity.quest":          false,
		"https://velocity.quest.":         false,
		"https://velocity.quest:443":      false,
		"https://velocity.quest:":         false,
		"https://velocity.quest:99999":    false,
		"https://*":                       false,
	} {
		if _, err := i.newServer(issuer); (err == nil) != valid {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}

// NewServer refuses invalid settings, such as a sign-in URL without TLS.
func TestInvalidConfigIsRefused(t *testing.T) {
	i := newFixture(t)
	for name, change := range map[string]func(*oauth.Config){
		"a sign-in URL without TLS":      func(c *oauth.Config) { c.SignInURL = "http://velocity.quest/login" },
		"a sign-in URL with a password":  func(c *oauth.Config) { c.SignInURL = "https://ada:secret@velocity.quest/login" },
		"a sign-in URL with a fragment":  func(c *oauth.Config) { c.SignInURL = "https://velocity.quest/login#x" },
		"a sign-in URL with a semicolon": func(c *oauth.Config) { c.SignInURL = "https://velocity.quest/login?a=1;b=2" },
		"no sign-in URL":                 func(c *oauth.Config) { c.SignInURL = "" },
		"no cookie":                      func(c *oauth.Config) { c.Cookie = "" },
		"an invalid cookie name":         func(c *oauth.Config) { c.Cookie = "sb auth" },
		"a cookie name with a semicolon": func(c *oauth.Config) { c.Cookie = "a;b" },
		"no session verifier":            func(c *oauth.Config) { c.Verifier = nil },
		"a negative limit":               func(c *oauth.Config) { c.AddressLimit = -1 },
	} {
		c := oauth.Config{Issuer: "https://velocity.quest", API: "velocity", Verifier: i.sessions, Cookie: "c", SignInURL: "https://velocity.quest/login?x=1"}
		if _, err := oauth.NewServer(c, i.Issuer, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if _, err := oauth.NewServer(c, i.Issuer, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func (i *fixture) newServer(address string, scopes ...oauth.Scope) (*oauth.Server, error) {
	return oauth.NewServer(oauth.Config{
		Issuer: address, API: "velocity", Verifier: i.sessions, Cookie: "c", SignInURL: "https://velocity.quest/login", Scopes: scopes,
	}, i.Issuer, slog.New(slog.DiscardHandler))
}
