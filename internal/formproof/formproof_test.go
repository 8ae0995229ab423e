package formproof_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/formproof"
)

func post(proof string, cookie *http.Cookie, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://velocity.quest/settings", strings.NewReader(url.Values{formproof.Field: {proof}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	if cookie != nil {
		r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
	}
	_ = r.ParseForm()
	return r
}

func TestCheck(t *testing.T) {
	const origin = "https://velocity.quest"
	g, err := formproof.New("forms", origin)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	proof := g.Issue(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	cookie := w.Result().Cookies()[0]
	if cookie.Name != "__Host-forms" || cookie.Value != proof || !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || len(proof) < 26 {
		t.Errorf("%+v", cookie)
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want formproof.Result
	}{
		"the browser's form":                           {post(proof, cookie, "Sec-Fetch-Site", "same-origin"), formproof.Valid},
		"an old browser's form":                        {post(proof, cookie, "Origin", origin), formproof.Valid},
		"a program's form, with the cookie":            {post(proof, cookie), formproof.Valid},
		"another tab's proof":                          {post("x", cookie, "Sec-Fetch-Site", "same-origin"), formproof.Outdated},
		"another tab's proof, in an old browser":       {post("x", cookie, "Origin", origin), formproof.Outdated},
		"no cookie":                                    {post(proof, nil, "Sec-Fetch-Site", "same-origin"), formproof.Outdated},
		"no cookie and no proof":                       {post("", nil, "Sec-Fetch-Site", "same-origin"), formproof.Outdated},
		"an empty cookie and no proof":                 {post("", &http.Cookie{Name: cookie.Name}, "Sec-Fetch-Site", "same-origin"), formproof.Outdated},
		"another site, with the proof":                 {post(proof, cookie, "Sec-Fetch-Site", "cross-site"), formproof.Forged},
		"a sibling host, with the proof":               {post(proof, cookie, "Sec-Fetch-Site", "same-site", "Origin", "https://evil.velocity.quest"), formproof.Forged},
		"another site, in an old browser":              {post("x", cookie, "Origin", "https://evil.example"), formproof.Forged},
		"a sandboxed page":                             {post(proof, cookie, "Origin", "null"), formproof.Forged},
		"a program's form, without a proof":            {post("", cookie), formproof.Forged},
		"a cookie without the prefix, by another host": {post(proof, &http.Cookie{Name: "forms", Value: proof}), formproof.Forged},
	} {
		if got := g.Check(c.r); got != c.want {
			t.Errorf("%s: %d instead of %d", name, got, c.want)
		}
	}
}

// All tabs of a browser have the same proof, unless the cookie has another form.
func TestIssueReusesTheProof(t *testing.T) {
	g, err := formproof.New("forms", "http://127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	first := httptest.NewRecorder()
	proof := g.Issue(first, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.AddCookie(&http.Cookie{Name: "forms", Value: proof})
	second := httptest.NewRecorder()
	if again := g.Issue(second, r); again != proof || second.Result().Cookies()[0].Value != proof {
		t.Errorf("%q and %q", proof, again)
	}
	r = httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.AddCookie(&http.Cookie{Name: "forms", Value: "short"})
	if again := g.Issue(httptest.NewRecorder(), r); again == "short" || again == proof {
		t.Errorf("%q and %q", proof, again)
	}
	if _, err := formproof.New("forms", "https://velocity.quest/path"); err == nil {
		t.Error("an origin with a path is accepted")
	}
}
