// Package formproof protects HTML forms against forgery by pages of other sites.
//
// A form is accepted if the browser does not say that another site has sent it, and if its field has the value of a cookie. A page
// of another origin can submit the form but cannot read the cookie.
package formproof

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"strings"
)

// Field is the name of the form's field with the proof.
const Field = "proof"

// Result is the result of the check of a form.
type Result int

// The results of [Guard.Check].
const (
	// Forged means that the form was not sent from a page of this origin.
	Forged Result = iota
	// Outdated means that a page of this origin has sent the form with another proof: another tab has replaced the cookie, or the
	// cookie has expired. The server must not act on the form. It may show the page again, as after a GET request. This is safe even
	// if a page of another part of the origin has sent the form.
	Outdated
	// Valid means that a page with this server's proof has sent the form.
	Valid
)

// Guard issues and checks the proofs of the forms of one origin. It is safe for concurrent use.
type Guard struct {
	cookie, origin string
	origins        *http.CrossOriginProtection
}

// New returns a guard. The parameter `cookie` is the name of the cookie for an http origin. For an https origin, the name gets the
// prefix "__Host-". The parameter `origin` is the origin of the pages, such as https://velocity.quest.
func New(cookie, origin string) (*Guard, error) {
	g := &Guard{cookie: cookie, origin: origin, origins: http.NewCrossOriginProtection()}
	if g.secure() {
		g.cookie = "__Host-" + cookie
	}
	// Some browsers send the header Origin but not Sec-Fetch-Site. Origin is then compared with Host, but a proxy may have removed
	// the port from Host. So New trusts the origin.
	return g, g.origins.AddTrustedOrigin(origin)
}

func (g *Guard) secure() bool { return strings.HasPrefix(g.origin, "https:") }

// Issue sets the cookie, and returns the value for the form's field. It reuses the proof of an earlier page, so that the forms in
// several tabs are valid.
//
// A page of a sibling host cannot set the cookie: browsers accept a name with the prefix "__Host-" only from the host itself and
// only over https. See RFC 6265bis, section 4.1.3.2.
//
// With SameSite=Lax, the browser sends the cookie when a link or a redirect of another site opens the page. So every tab reuses the
// proof of the first tab. Browsers do not send such a cookie with a form from another site (RFC 6265bis, section 5.6.7.1). With
// SameSite=Strict, each tab that another site opens would get a new proof, and the form of the earlier tab would become invalid. If
// several tabs open at the same time, each one still gets its own proof. The browser keeps one of them, and the forms of the other
// tabs are Outdated.
func (g *Guard) Issue(w http.ResponseWriter, r *http.Request) string {
	const lifetime = 3600 // seconds
	proof := rand.Text()
	if earlier := g.proof(r); len(earlier) == len(proof) {
		proof = earlier
	}
	http.SetCookie(w, &http.Cookie{
		Name: g.cookie, Value: proof, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: g.secure(), MaxAge: lifetime,
	})
	return proof
}

// Check returns whether a page of this server has sent the form. The request's form must have been parsed.
func (g *Guard) Check(r *http.Request) Result {
	proof := g.proof(r)
	switch {
	case g.origins.Check(r) == nil && proof != "" && subtle.ConstantTimeCompare([]byte(proof), []byte(r.PostForm.Get(Field))) == 1:
		return Valid
	case g.isOwnPage(r):
		return Outdated
	}
	return Forged
}

// proof returns the value of the browser's cookie, or an empty string if the browser has sent no such cookie.
func (g *Guard) proof(r *http.Request) string {
	c, err := r.Cookie(g.cookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// isOwnPage reports whether the browser says that a page of this origin has sent the request. Browsers from before 2023 send only
// Origin.
func (g *Guard) isOwnPage(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "same-origin" || site == "" && r.Header.Get("Origin") == g.origin
}
