package oauth

import (
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

//go:embed consent.html
var consentHTML string

var page = template.Must(template.New("consent").Parse(consentHTML))

// shown is what a page says.
type shown struct {
	Nonce string
	// Mistake, instead of everything else, and where the user may go on.
	Mistake, SignIn string

	App, Host  string
	Email      string
	User       string
	Account    []Scope           // scopes of the user, in no particular workspace
	Within     []Scope           // scopes in the workspaces that the user chooses
	Workspaces []store.Workspace // that can be chosen; none where no scope is about one
	Missing    bool              // a workspace has to be chosen
	None       bool              // and there is none
	Proof      string
}

// proofCookie is the cookie that must match a field of the form. A page of another origin can submit the form but cannot
// read the cookie. A page of a sibling host cannot set it either: browsers accept a name with this prefix only from the
// host itself and only over https (RFC 6265bis, section 4.1.3.2).
func (s *Server) proofCookie(proof string) *http.Cookie {
	c := &http.Cookie{Name: "keywicket_consent", Value: proof, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: s.secure, MaxAge: 3600}
	if s.secure {
		c.Name = "__Host-" + c.Name
	}
	return c
}

// proof is what the browser's cookie holds; empty: there is none.
func (s *Server) proof(r *http.Request) string {
	c, err := r.Cookie(s.proofCookie("").Name)
	if err != nil {
		return ""
	}
	return c.Value
}

// consent asks the user (RFC 6749, section 4.1.1).
func (s *Server) consent(w http.ResponseWriter, r *http.Request) {
	a, user, ok := s.asking(w, r)
	if !ok {
		return
	}
	s.show(w, r, a, user, false)
}

// limited refuses requests above the limit of their address.
func (s *Server) limited(endpoint http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if wait := s.addresses.take(address(r)); wait > 0 {
			s.config.Observe("consent", "limited")
			w.Header().Set("Retry-After", seconds(wait))
			s.tell(w, http.StatusTooManyRequests, "There were too many requests from where you are. Try again in a minute.")
			return
		}
		endpoint(w, r)
	}
}

// decide takes the user's answer. The form is sent to the address that it came from, so the request is read again.
func (s *Server) decide(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	a, user, ok := s.asking(w, r)
	if !ok {
		return
	}
	if err := r.ParseForm(); err != nil {
		s.tell(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	proof := s.proof(r)
	if proof == "" || subtle.ConstantTimeCompare([]byte(proof), []byte(r.PostForm.Get("proof"))) != 1 || s.foreign.Check(r) != nil {
		s.config.Observe("consent", "forged")
		s.tell(w, http.StatusForbidden, "This answer did not come from the page that asked. Go back to the app, and begin again.")
		return
	}
	if r.PostForm.Get("user") != user.ID { // somebody else has signed in meanwhile
		s.show(w, r, a, user, false)
		return
	}
	if r.PostForm.Get("decision") != "approve" {
		s.config.Observe("consent", "denied")
		http.Redirect(w, r, s.back(a, map[string]string{"error": "access_denied"}), http.StatusSeeOther)
		return
	}
	var chosen []string
	if a.ofWorkspaces() {
		if chosen = r.PostForm["workspace"]; len(chosen) == 0 {
			s.show(w, r, a, user, true)
			return
		}
	}
	slices.Sort(chosen)
	chosen = slices.Compact(chosen)
	made, err := s.grants.Approve(r.Context(), store.Approval{
		Client: a.client.ID, User: user.ID, Workspaces: chosen, Scopes: a.names(),
		RedirectURI: a.redirectURI, Challenge: a.challenge,
	})
	switch {
	case errors.Is(err, store.ErrInvalid): // a workspace that the user has left, say
		s.show(w, r, a, user, a.ofWorkspaces())
	case err != nil:
		s.unavailable(w, r, err)
	default:
		s.config.Observe("consent", "approved")
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "a user has granted access to an app", slog.String("grant_id", made.Grant),
			slog.String("client_id", a.client.ID), slog.String("user_id", user.ID), slog.Any("scopes", a.names()), slog.Any("workspaces", chosen))
		http.Redirect(w, r, s.back(a, map[string]string{"code": made.Code.Reveal()}), http.StatusSeeOther)
	}
}

// asking reads the user and the app's request. If it cannot ask for consent, it has already written the response.
func (s *Server) asking(w http.ResponseWriter, r *http.Request) (authorization, store.Consenter, bool) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "same-origin") // no-referrer would have a form say that it comes from nowhere
	a, err := s.authorization(r)
	wrong, isMistake := errors.AsType[*mistake](err)
	refused, isRefusal := errors.AsType[*refusal](err)
	var user store.Consenter
	if err == nil || isRefusal { // who is not known is not sent on, not even with an error (RFC 9700, section 4.11.2)
		var unknown error
		if user, unknown = s.user(r); unknown != nil {
			err, isRefusal = unknown, false
		}
	}
	switch {
	case err == nil:
		return a, user, true
	case isMistake:
		s.config.Observe("consent", "mistake")
		s.tell(w, http.StatusBadRequest, wrong.why)
	case isRefusal:
		s.config.Observe("consent", refused.Code)
		http.Redirect(w, r, s.back(a, map[string]string{"error": refused.Code, "error_description": refused.Description}), http.StatusSeeOther)
	case errors.Is(err, errSignedOut) && r.URL.Query().Has(returned):
		s.config.Observe("consent", "not_known")
		s.render(w, r, http.StatusForbidden, shown{
			Mistake: "You have signed in, but not with an account that is known here, or your session was ended.", SignIn: s.signIn(r, ""),
		})
	case errors.Is(err, errSignedOut):
		s.config.Observe("consent", "signed_out")
		http.Redirect(w, r, s.signIn(r, ""), http.StatusSeeOther)
	case errors.Is(err, errSecondFactor) && r.URL.Query().Has(returned):
		s.config.Observe("consent", "second_factor_required")
		s.render(w, r, http.StatusForbidden, shown{
			Mistake: "You have signed in without a second factor. It is required here.", SignIn: s.signIn(r, authz.AAL2),
		})
	case errors.Is(err, errSecondFactor):
		s.config.Observe("consent", "second_factor_required")
		http.Redirect(w, r, s.signIn(r, authz.AAL2), http.StatusSeeOther)
	default:
		s.unavailable(w, r, err)
	}
	return a, user, false
}

var (
	errSignedOut    = errors.New("nobody is signed in")
	errSecondFactor = errors.New("the user has signed in without a second factor")
)

// user is who is signed in at the product, as the sidecar would take the same session: an app's token is not a user's.
func (s *Server) user(r *http.Request) (store.Consenter, error) {
	token, ok := sessionToken(r, s.config.Cookie)
	if !ok {
		return store.Consenter{}, errSignedOut
	}
	verified, err := s.config.Verifier.Verify(r.Context(), s.config.API, token)
	if err != nil {
		return store.Consenter{}, err
	}
	if verified.Denial != "" {
		return store.Consenter{}, errSignedOut
	}
	user, err := s.grants.Consenter(r.Context(), verified.Session)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return user, errSignedOut
	case err == nil && s.config.Sessions.SecondFactorMissing(verified.AAL, user.MFAEnrolled):
		return store.Consenter{}, errSecondFactor
	}
	return user, err
}

// returned is a parameter that says that the user comes from signing in. Who is signed in there and not here would be sent to and
// fro without it.
const returned = "returned"

// signIn is where the user signs in, and is told where to come back to. level is the assurance that is required (the
// parameter acr_values of RFC 9470, section 4), if any is.
func (s *Server) signIn(r *http.Request, level string) string {
	u, err := url.Parse(s.config.SignIn)
	if err != nil {
		panic("the address to sign in at is none: " + err.Error()) // NewServer has looked
	}
	back := s.config.Issuer + consentPath + "?" + r.URL.RawQuery
	if !r.URL.Query().Has(returned) {
		back += "&" + returned + "=1"
	}
	query := u.Query()
	query.Set("return_to", back)
	if level != "" {
		query.Set("acr_values", level)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, a authorization, user store.Consenter, missing bool) {
	proof := rand.Text()
	// Another tab's form is good as well.
	if before := s.proof(r); len(before) == len(proof) {
		proof = before
	}
	http.SetCookie(w, s.proofCookie(proof))
	p := shown{
		App: a.client.Name, Host: destination(a.redirectURI), Email: user.Email, User: user.ID,
		Missing: missing, Proof: proof,
	}
	for _, scope := range a.scopes {
		if scope.Workspace {
			p.Within = append(p.Within, scope)
		} else {
			p.Account = append(p.Account, scope)
		}
	}
	if a.ofWorkspaces() {
		p.Workspaces = user.Workspaces
		p.None = len(p.Workspaces) == 0
	}
	status := http.StatusOK
	if missing {
		status = http.StatusUnprocessableEntity
	}
	s.config.Observe("consent", "asked")
	s.render(w, r, status, p)
}

// destination returns the part of a redirect URI that the user should read: the host, their own machine, or an app's own scheme.
func destination(redirectURI string) string {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return ""
	}
	switch u.Scheme {
	case "https":
		return u.Host
	case "http":
		return "an app on this device (" + u.Scheme + "://" + u.Host + ")"
	}
	return "an app on this device (" + u.Scheme + ":)"
}

func (s *Server) tell(w http.ResponseWriter, status int, what string) {
	s.render(w, nil, status, shown{Mistake: what})
}

// render writes the page. It cannot be framed (RFC 9700, section 4.16), and loads nothing. The policy has no form-action: Chromium
// would hold every redirect against it that follows the form, also those of the app's.
func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, p shown) {
	p.Nonce = rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+p.Nonce+"'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := page.Execute(w, p); err != nil && r != nil {
		s.log.LogAttrs(r.Context(), slog.LevelWarn, "the consent page could not be written", slog.Any("error", err))
	}
}

func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	s.config.Observe("consent", "unavailable")
	s.failed(w, r, err)
	s.tell(w, http.StatusServiceUnavailable, "This cannot be decided at the moment. Try again.")
}
