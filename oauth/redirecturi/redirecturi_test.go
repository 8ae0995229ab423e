package redirecturi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/oauth/redirecturi"
)

func TestCheckRedirectURI(t *testing.T) {
	for _, uri := range []string{
		"https://yourapp.com/callback", "https://yourapp.com", "https://yourapp.com:8443/cb?x=1", "https://[2001:db8::1]:8443/", "https://xn--bcher-kva.example/",
		"http://127.0.0.1/cb", "http://127.0.0.1:5173/cb", "http://[::1]:1/", "http://127.0.0.1", "com.example.app:/cb", "com.example.app://cb", "https://yourapp.com/cb?x=1;y=2",
	} {
		for _, development := range []bool{false, true} {
			if err := redirecturi.Check(uri, development); err != nil {
				t.Errorf("%s: %v", uri, err)
			}
		}
	}
	for uri, want := range map[string]string{
		"":                                                 "not an absolute URI",
		"/callback":                                        "not an absolute URI",
		"//yourapp.com/cb":                                 "not an absolute URI",
		"yourapp.com/cb":                                   "not an absolute URI",
		"https://":                                         "must be an https URI",
		"https:/cb":                                        "must be an https URI",
		"https://yourapp.com/cb#x":                         "fragment",
		"https://yourapp.com/cb#":                          "fragment",
		"https://user@yourapp.com/":                        "user name",
		"https://yourapp.com/a/../b":                       "dot segments",
		"https://yourapp.com/a/%2e%2e/b":                   "dot segments",
		"https://*.yourapp.com/":                           "wildcard",
		"https://yourapp.com/\ncb":                         "characters",
		"https://yourapp.com/ cb":                          "characters",
		"https://bücher.example/":                          "characters",
		`https://yourapp.com\@evil.com/`:                   "characters",
		"http://yourapp.com/cb":                            "http is allowed only for",
		"http://localhost.evil.com/cb":                     "http is allowed only for",
		"http://app.localhost/cb":                          "http is allowed only for",
		"http://localhost./cb":                             "http is allowed only for",
		"http://localhost@evil.com/cb":                     "user name",
		"http://localhost:80@evil.com/cb":                  "user name",
		"http://localhost:80:90/cb":                        "",
		"http://localhost:x/cb":                            "",
		"http://localhost:123456/cb":                       "",
		"http://localhost/a/../cb":                         "dot segments",
		"http://localhost/cb#x":                            "fragment",
		"http://localhost/cb?code=1":                       "its query has code",
		"http://127.0.0.1.evil.com/cb":                     "http is allowed only for",
		"http://127.0.0.1:80:90/cb":                        "",
		"http://127.0.0.1@evil.com/cb":                     "user name",
		"http://[::1].evil.com/":                           "",
		"javascript:alert(1)":                              "must be an https URI",
		"data:text/html,x":                                 "must be an https URI",
		"https://yourapp.com/cb?iss=x":                     "its query has iss",
		"https://yourapp.com/cb?%63ode":                    "its query has code",
		"http://127.0.0.1/cb?x&state=1":                    "its query has state",
		"com.example.app:/cb?error=1":                      "its query has error",
		"https://yourapp.com/cb?x=%zz":                     "its query",
		"https://yourapp.com/cb?x=1;code=2":                "its query has code", // some servers split a query at ";"
		"myapp:/cb":                                        "must be an https URI",
		"https://a;script-src.example/":                    "must be an https URI",
		"https://a,b.example/":                             "must be an https URI",
		"https://a'b.example/":                             "must be an https URI",
		"https://-a.example/":                              "must be an https URI",
		"https://[::1%25x]/":                               "must be an https URI",
		"https://a.example:123456/":                        "must be an https URI",
		"https://a.example:99999/":                         "must be an https URI",
		"https://a.example:0/":                             "must be an https URI",
		"https://a.example:/":                              "must be an https URI",
		"https://.../":                                     "must be an https URI",
		"https://%D0%B0pple.com/cb":                        "must be an https URI",
		"https://%E2%80%AEmoc.elppa/":                      "must be an https URI",
		"https://yourapp.com/%0d%0aX:1":                    "control",
		"https://yourapp.com/%00":                          "control",
		"https://yourapp.com/" + strings.Repeat("x", 2000): "longer",
	} {
		if err := redirecturi.Check(uri, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, in development: %v, not %s", uri, err, want)
		}
		if err := redirecturi.Check(uri, false); err == nil {
			t.Errorf("%q was accepted", uri)
		}
	}
}

// http on localhost is accepted only for an app in development (RFC 8252, section 8.3).
func TestLocalhostIsForDevelopment(t *testing.T) {
	for _, uri := range []string{"http://localhost", "http://localhost/cb", "http://localhost:3000/cb?x=1", "http://localhost:5173"} {
		if err := redirecturi.Check(uri, true); err != nil {
			t.Errorf("%s, in development: %v", uri, err)
		}
		if err := redirecturi.Check(uri, false); err == nil || !strings.Contains(err.Error(), "RFC 8252, section 8.3): use http://127.0.0.1, or mark the app as an app in development") {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, uri := range []string{"http://LOCALHOST:3000/cb", "HTTP://localhost:3000/cb"} { // the comparison is exact
		for _, development := range []bool{false, true} {
			if err := redirecturi.Check(uri, development); err == nil {
				t.Errorf("%s was accepted", uri)
			}
		}
	}
	const registered = "http://localhost:3000/cb"
	for presented, want := range map[string]bool{
		"http://localhost:3000/cb": true, "http://localhost:5173/cb": true, "http://localhost/cb": true,
		"http://localhost:3000/cb/": false, "http://localhost:3000/": false, "https://localhost:3000/cb": false,
		"http://127.0.0.1:3000/cb": false, "http://[::1]:3000/cb": false, "http://localhost.evil.com:3000/cb": false,
		"http://localhost:3000@evil.com/cb": false, "http://localhost:/cb": false, "http://localhost:123456/cb": false,
	} {
		if got := redirecturi.Matches(registered, presented, true); got != want {
			t.Errorf("%s matches %s: %t", presented, registered, got)
		}
		if got := redirecturi.Matches(registered, presented, false); got != (presented == registered) {
			t.Errorf("without development, %s matches %s: %t", presented, registered, got)
		}
	}
}

// RFC 9700, section 4.1.3: the URIs must be identical. RFC 8252, section 7.3: only the port of a loopback address may differ.
func TestRedirectURIMatches(t *testing.T) {
	for _, c := range []struct {
		registered, presented string
		want                  bool
	}{
		{"https://yourapp.com/callback", "https://yourapp.com/callback", true},
		{"https://yourapp.com/callback", "https://yourapp.com/callback/", false},
		{"https://yourapp.com/callback", "https://yourapp.com/callback/../evil", false},
		{"https://yourapp.com/callback", "https://yourapp.com/callback?x=1", false},
		{"https://yourapp.com/callback", "https://yourapp.com/Callback", false},
		{"https://yourapp.com/callback", "https://yourapp.com.evil.com/callback", false},
		{"https://yourapp.com/callback", "https://yourapp.com:443/callback", false},
		{"https://yourapp.com/callback", "https://yourapp.com/callbackevil", false},
		{"https://yourapp.com", "https://yourapp.com/", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:51004/cb", true},
		{"http://127.0.0.1:8080/cb", "http://127.0.0.1:51004/cb", true},
		{"http://127.0.0.1:8080/cb", "http://127.0.0.1/cb", true},
		{"http://[::1]/cb", "http://[::1]:51004/cb", true},
		{"http://127.0.0.1/cb", "http://[::1]/cb", false},
		{"http://127.0.0.1/cb", "https://127.0.0.1/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:51004/cb/", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:51004/cb#x", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:51004@evil.com/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:123456/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1.evil.com/cb", false},
		{"http://127.0.0.1/cb", "http://localhost:51004/cb", false},
	} {
		for _, development := range []bool{false, true} {
			if got := redirecturi.Matches(c.registered, c.presented, development); got != c.want {
				t.Errorf("%s matches the registered %s: %t", c.presented, c.registered, got)
			}
		}
	}
}

func TestCheckAll(t *testing.T) {
	many := make([]string, redirecturi.Max+1)
	for i := range many {
		many[i] = fmt.Sprintf("https://yourapp.com/%d", i)
	}
	for name, c := range map[string]struct {
		uris []string
		want string // a part of the error; empty: no error
	}{
		"one":            {many[:1], ""},
		"the maximum":    {many[:redirecturi.Max], ""},
		"none":           {nil, "1 to 20 redirect URIs"},
		"too many":       {many, "1 to 20 redirect URIs"},
		"one twice":      {[]string{many[0], many[1], many[0]}, `"https://yourapp.com/0" is given twice`},
		"an invalid one": {[]string{many[0], "http://yourapp.com/"}, `"http://yourapp.com/": http is allowed only for`},
	} {
		if err := redirecturi.CheckAll(c.uris, false); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
