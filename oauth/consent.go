package oauth

import (
	"crypto/rand"
	_ "embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/formproof"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/oauth/sessioncookie"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/issuer"
)

//go:embed consent.html
var consentHTML string

var page = template.Must(template.New("consent").Parse(consentHTML))

// pageData is the data of the page's template.
type pageData struct {
	Nonce string
	// Mistake is an error text. If Mistake is set, the page shows only this text and, if SignIn is set, a link to SignIn.
	Mistake, SignIn string

	App, Host       string
	Development     bool // the app is in development
	Email           string
	User            string
	AccountScopes   []Scope            // scopes of the user's account
	WorkspaceScopes []Scope            // scopes in the workspaces that the user chooses
	Workspaces      []issuer.Workspace // workspaces that the user can choose; empty if no scope is for a workspace
	NoneChosen      bool               // the user has chosen no workspace, and must choose at least one
	Outdated        bool               // the user has sent an outdated form, and must answer again
	HasNoWorkspace  bool               // a scope is for workspaces, but the user has no workspace
	Proof           string             // value of the form's field
}

// consent shows the consent page (RFC 6749, section 4.1.1).
func (s *Server) consent(w http.ResponseWriter, r *http.Request) {
	a, user, ok := s.readConsent(w, r)
	if !ok {
		return
	}
	s.showConsent(w, r, a, user, pageData{})
}

// withAddressLimit returns a handler that refuses requests from a client address that has reached its limit.
func (s *Server) withAddressLimit(endpoint http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if wait := s.addresses.Take(ratelimit.Address(r)); wait > 0 {
			s.config.Observe("consent", "limited")
			w.Header().Set("Retry-After", seconds(wait))
			s.showMistake(w, http.StatusTooManyRequests, "There were too many requests from your network. Try again in a minute.")
			return
		}
		endpoint(w, r)
	}
}

// decide processes the form with the user's decision. The browser sends the form to the URL of the page, so decide reads the
// app's request again.
func (s *Server) decide(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	a, user, ok := s.readConsent(w, r)
	if !ok {
		return
	}
	if err := r.ParseForm(); err != nil {
		s.showMistake(w, http.StatusBadRequest, "The form could not be read.")
		return
	}
	switch s.forms.Check(r) {
	case formproof.Valid:
	case formproof.Outdated:
		s.showConsent(w, r, a, user, pageData{Outdated: true})
		return
	default:
		s.config.Observe("consent", "forged")
		s.showMistake(w, http.StatusForbidden, "This form was not sent from this server's page. Go back to the app, and start again.")
		return
	}
	if r.PostForm.Get("user") != user.ID { // another user has signed in since the page was shown
		s.showConsent(w, r, a, user, pageData{})
		return
	}
	if r.PostForm.Get("decision") != "approve" {
		s.config.Observe("consent", "denied")
		http.Redirect(w, r, s.redirectTo(a, map[string]string{"error": "access_denied"}), http.StatusSeeOther)
		return
	}
	var chosen []string
	if a.needsWorkspaces() {
		if chosen = r.PostForm["workspace"]; len(chosen) == 0 {
			s.showConsent(w, r, a, user, pageData{NoneChosen: true})
			return
		}
	}
	slices.Sort(chosen)
	chosen = slices.Compact(chosen)
	approved, err := s.grants.Approve(r.Context(), issuer.Approval{
		Client: a.client.ID, User: user.ID, Workspaces: chosen, Scopes: a.scopeNames(),
		RedirectURI: a.redirectURI, Challenge: a.challenge,
	})
	switch {
	case errors.Is(err, database.ErrInvalid): // for example, the user has left a workspace
		s.showConsent(w, r, a, user, pageData{NoneChosen: a.needsWorkspaces()})
	case err != nil:
		s.unavailable(w, r, err)
	default:
		s.config.Observe("consent", "approved")
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "a user has granted access to an app", slog.String("grant_id", approved.Grant),
			slog.String("client_id", a.client.ID), slog.String("user_id", user.ID), slog.Any("scopes", a.scopeNames()), slog.Any("workspaces", chosen))
		http.Redirect(w, r, s.redirectTo(a, map[string]string{"code": approved.Code.Reveal()}), http.StatusSeeOther)
	}
}

// readConsent reads the app's request and the user. If it returns false, it has already written the response.
func (s *Server) readConsent(w http.ResponseWriter, r *http.Request) (authorization, issuer.ConsentUser, bool) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "same-origin") // with "no-referrer", browsers would send "Origin: null" with the form
	a, err := s.authorization(r)
	wrong, isMistake := errors.AsType[*mistake](err)
	refused, isRefusal := errors.AsType[*refusal](err)
	var user issuer.ConsentUser
	if err == nil || isRefusal { // without a known user, there is no redirect to the app, not even with an error (RFC 9700, section 4.11.2)
		var userErr error
		if user, userErr = s.user(r); userErr != nil {
			err, isRefusal = userErr, false
		}
	}
	switch {
	case err == nil:
		return a, user, true
	case isMistake:
		s.config.Observe("consent", "mistake")
		s.showMistake(w, http.StatusBadRequest, wrong.why)
	case isRefusal:
		s.config.Observe("consent", refused.Code)
		http.Redirect(w, r, s.redirectTo(a, map[string]string{"error": refused.Code, "error_description": refused.Description}), http.StatusSeeOther)
	case errors.Is(err, errSignedOut) && r.URL.Query().Has(returnParameter):
		s.config.Observe("consent", "not_known")
		s.render(w, r, http.StatusForbidden, pageData{
			Mistake: "You have signed in, but your account is not known here, or your session has ended.", SignIn: s.signIn(r, ""),
		})
	case errors.Is(err, errSignedOut):
		s.config.Observe("consent", "signed_out")
		http.Redirect(w, r, s.signIn(r, ""), http.StatusSeeOther)
	case errors.Is(err, errSecondFactor) && r.URL.Query().Has(returnParameter):
		s.config.Observe("consent", "second_factor_required")
		s.render(w, r, http.StatusForbidden, pageData{
			Mistake: "You have signed in without a second factor. A second factor is required here.", SignIn: s.signIn(r, authz.AAL2),
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
	errSignedOut    = errors.New("no user is signed in")
	errSecondFactor = errors.New("the user has signed in without a second factor")
)

// user returns the user who is signed in at the product. It accepts the same sessions as the sidecar, so it does not accept an
// app's token. The error is [errSignedOut], [errSecondFactor], or a failure of the server.
func (s *Server) user(r *http.Request) (issuer.ConsentUser, error) {
	token, ok := sessioncookie.Token(r, s.config.Cookie)
	if !ok {
		return issuer.ConsentUser{}, errSignedOut
	}
	verified, err := s.config.Verifier.Verify(r.Context(), s.config.API, token)
	if err != nil {
		return issuer.ConsentUser{}, err
	}
	if verified.Denial != "" {
		return issuer.ConsentUser{}, errSignedOut
	}
	user, err := s.grants.ConsentUser(r.Context(), verified.Session)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return user, errSignedOut
	case err == nil && s.config.Sessions.SecondFactorMissing(verified.AAL, user.MFAEnrolled):
		return issuer.ConsentUser{}, errSecondFactor
	}
	return user, err
}

// returnParameter is the parameter that marks a request after a redirect from the sign-in page. It prevents a redirect loop for
// a user whose session is valid at the sign-in page but not at the issuer.
const returnParameter = "returned"

// signIn returns the URL of the sign-in page. The URL contains the address of the consent page, to which the user returns. The
// parameter `level` is the required assurance level (acr_values of RFC 9470, section 4). With an empty level, every assurance
// level is sufficient.
func (s *Server) signIn(r *http.Request, level string) string {
	u, err := url.Parse(s.config.SignInURL)
	if err != nil {
		panic("the sign-in URL is invalid: " + err.Error()) // NewServer checks it
	}
	back := s.config.Issuer + consentPath + "?" + r.URL.RawQuery
	if !r.URL.Query().Has(returnParameter) {
		back += "&" + returnParameter + "=1"
	}
	query := u.Query()
	query.Set("return_to", back)
	if level != "" {
		query.Set("acr_values", level)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// showConsent writes the consent page. The parameter `p` contains what the page says about the user's previous answer.
func (s *Server) showConsent(w http.ResponseWriter, r *http.Request, a authorization, user issuer.ConsentUser, p pageData) {
	p.App, p.Host, p.Development = a.client.Name, destination(a.redirectURI), a.client.Development
	p.Email, p.User, p.Proof = user.Email, user.ID, s.forms.Issue(w, r)
	for _, scope := range a.scopes {
		if scope.Workspace {
			p.WorkspaceScopes = append(p.WorkspaceScopes, scope)
		} else {
			p.AccountScopes = append(p.AccountScopes, scope)
		}
	}
	if a.needsWorkspaces() {
		p.Workspaces = user.Workspaces
		p.HasNoWorkspace = len(p.Workspaces) == 0
	}
	status := http.StatusOK
	if p.NoneChosen {
		status = http.StatusUnprocessableEntity
	}
	s.config.Observe("consent", "asked")
	s.render(w, r, status, p)
}

// destination describes the target of a redirect URI for the user: the host of a website, or an app on the user's device.
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

// showMistake writes a page that shows only the text.
func (s *Server) showMistake(w http.ResponseWriter, status int, text string) {
	s.render(w, nil, status, pageData{Mistake: text})
}

// render writes the page. Other pages cannot frame it (RFC 9700, section 4.16), and it loads nothing. The content security
// policy has no form-action, because Chromium applies form-action to every redirect after the form's submission, even to
// redirects by the app.
func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, p pageData) {
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
	s.logFailure(w, r, err)
	s.showMistake(w, http.StatusServiceUnavailable, "The server cannot answer at the moment. Try again.")
}
