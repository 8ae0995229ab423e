package pages

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/oauth/sessioncookie"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
)

// visitor is a signed-in user who has opened a page.
type visitor struct {
	User        console.User
	Session     authz.Session
	Memberships []console.Membership
}

var (
	errSignedOut    = errors.New("no user is signed in")
	errSecondFactor = errors.New("the user has signed in without a second factor")
)

// visitor returns the user whose session is in the request's cookie. It accepts the same sessions as the sidecar. The error is
// [errSignedOut], [errSecondFactor], or a failure of the server.
func (s *site) visitor(r *http.Request) (visitor, error) {
	token, ok := sessioncookie.Token(r, s.api.Cookie)
	if !ok {
		return visitor{}, errSignedOut
	}
	verified, err := s.sessions.Verify(r.Context(), s.api.Name, token)
	switch {
	case err != nil:
		return visitor{}, err
	case verified.Denial != "":
		return visitor{}, errSignedOut
	}
	v := visitor{Session: verified.Session}
	v.User, err = s.store.SessionUser(r.Context(), verified.Session)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return visitor{}, errSignedOut
	case err != nil:
		return visitor{}, err
	case s.api.Sessions.SecondFactorMissing(verified.AAL, v.User.MFAEnrolled):
		return visitor{}, errSecondFactor
	}
	v.Memberships, err = s.store.Memberships(r.Context(), v.User.ID)
	return v, err
}

// caller returns the visitor as the caller of an operation. The parameter `in` is the workspace of the operation; zero for operations
// outside of workspaces.
func (s *site) caller(r *http.Request, v visitor, in console.Membership) settings.Caller {
	return settings.Caller{
		API: s.api.API, User: v.User, Session: v.Session, Workspace: in,
		Actor: database.Actor{Kind: database.ActorUser, ID: v.User.ID, Source: ratelimit.Address(r), RequestID: r.Header.Get("X-Request-Id")},
		Maker: issuance.Maker{Kind: authz.KindSession, Scopes: s.api.Sessions.Scopes, Role: in.Role},
	}
}

// returnParameter is the parameter that marks a request after a redirect from the sign-in page. It prevents a redirect loop for a user
// whose session is valid at the sign-in page but not here.
const returnParameter = "returned"

// signIn returns the URL of the sign-in page, from which the user returns to the requested page. The parameter `level` is the required
// assurance level (acr_values of RFC 9470, section 4). With an empty level, every assurance level is sufficient.
func (s *site) signIn(r *http.Request, level string) string {
	back := *r.URL
	values := back.Query()
	values.Set(returnParameter, "1")
	back.RawQuery = values.Encode()
	u, err := url.Parse(s.api.SignIn)
	if err != nil {
		return s.api.SignIn
	}
	query := u.Query()
	query.Set("return_to", s.api.URL+back.RequestURI())
	if level != "" {
		query.Set("acr_values", level)
	}
	u.RawQuery = query.Encode()
	return u.String()
}
