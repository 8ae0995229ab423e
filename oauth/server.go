package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/formproof"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/store/issuer"
)

// These are the paths of the endpoints.
const (
	tokenPath      = "/api/oauth/token"
	revokePath     = "/api/oauth/revoke"
	introspectPath = "/api/oauth/introspect"
	consentPath    = "/oauth/consent"
	metadataPath   = "/.well-known/oauth-authorization-server"
)

// Config is the configuration of a [Server].
type Config struct {
	// Issuer is the server's own URL, such as https://velocity.quest, without a path or a trailing slash (RFC 8414, section 2).
	// An http URL is allowed only with a loopback address, for local development.
	Issuer string
	// API is the id of the API that users and apps call. Format is the format of the access tokens of this API. Scopes are the
	// scopes that an app may request.
	API    string
	Format authz.CredentialFormat
	Scopes []Scope
	// Verifier verifies the user's session. The field Cookie is the name of the cookie with the session's token. The field
	// Sessions defines when a session needs a second factor.
	Verifier authz.Sessions
	Sessions authz.SessionFormat
	Cookie   string
	// SignInURL is the URL to which users without a session are redirected. The server adds the parameter return_to: the URL to
	// which the user returns after signing in.
	SignInURL string
	// AddressLimit is the maximum number of requests per minute from one client address. ClientLimit is the maximum number of
	// requests per minute that one app may send to the endpoints for apps. 0 means no limit.
	AddressLimit, ClientLimit int
	// ReuseWindow is the time after the first use of a refresh token in which the same app may use it again: from a second to a
	// minute. The app then gets a second successor. 0 means that every second use revokes the grant.
	ReuseWindow time.Duration
	// Observe receives the endpoint and the outcome of each request. The outcome is "ok" or a word of a fixed set. The outcome of a
	// successful second use of a refresh token is "repeated".
	Observe func(endpoint, outcome string)
}

// Scope is a scope that an app may request.
type Scope struct {
	Name, Description string
	Workspace         bool // the scope gives access to the data in workspaces, not to the user's account
}

// Server is the authorization server: it handles the requests of apps, and asks users for consent. It is safe for concurrent
// use.
type Server struct {
	config Config
	forms  *formproof.Guard
	// grants creates and revokes grants, codes and tokens in the database. The field Issuer of the configuration is only a URL.
	grants *issuer.Issuer
	log    *slog.Logger

	addresses, clients *ratelimit.Limits
}

// NewServer validates the configuration, and returns a server. The server uses the parameter grants to store grants, codes and
// tokens. The error for an invalid configuration contains the name of the setting.
func NewServer(c Config, grants *issuer.Issuer, log *slog.Logger) (*Server, error) {
	switch {
	case !validIssuer(c.Issuer):
		return nil, errIssuerURL
	case !validSignIn(c.SignInURL):
		return nil, errors.New("sign_in: give the URL of the sign-in page, such as https://velocity.quest/login; http is only for 127.0.0.1, [::1] and localhost")
	case (&http.Cookie{Name: c.Cookie}).Valid() != nil:
		return nil, errors.New("cookie: give the name of the cookie with the users' sessions, such as sb-PROJECT-auth-token")
	case c.Verifier == nil:
		return nil, errors.New("the configuration has no session verifier")
	case c.AddressLimit < 0:
		return nil, errors.New("address_limit: give a number of requests per minute, or 0 for no limit")
	case c.ClientLimit < 0:
		return nil, errors.New("client_limit: give a number of requests per minute, or 0 for no limit")
	case c.ReuseWindow != 0 && (c.ReuseWindow < time.Second || c.ReuseWindow > time.Minute):
		return nil, errors.New("reuse_window: give a duration from 1s to 1m, such as 10s, or 0s: every second use of a refresh token revokes the grant")
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	forms, err := formproof.New("keywicket_consent", c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return &Server{
		config: c, forms: forms,
		grants: grants, log: log, addresses: ratelimit.New(c.AddressLimit), clients: ratelimit.New(c.ClientLimit),
	}, nil
}

// Handler returns the handler of all paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, s.appEndpoint("token", s.token))
	mux.HandleFunc("POST "+revokePath, s.appEndpoint("revoke", s.withClient(s.revoke)))
	mux.HandleFunc("POST "+introspectPath, s.appEndpoint("introspect", s.withClient(s.introspect)))
	mux.HandleFunc("GET "+metadataPath, s.metadata)
	mux.HandleFunc("GET "+resourcePath, s.resource)
	mux.HandleFunc("GET "+resourcePath+"/", s.resource)
	mux.HandleFunc("GET "+consentPath, withSemicolons(s.withAddressLimit(s.consent)))
	mux.HandleFunc("POST "+consentPath, withSemicolons(s.withAddressLimit(s.decide)))
	return mux
}

// appEndpoint returns the handler of an endpoint for apps. The handler limits the requests of each address, and writes the
// endpoint's result or error. No cache may store the response (RFC 6749, section 5.1).
func (s *Server) appEndpoint(name string, endpoint func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		var body any
		err := tooManyRequests(s.addresses.Take(ratelimit.Address(r)))
		if err == nil {
			body, err = endpoint(r)
		}
		if err != nil {
			s.config.Observe(name, s.refuse(w, r, err))
			return
		}
		outcome := "ok"
		if t, isTokens := body.(tokens); isTokens && t.repeated {
			outcome = "repeated"
		}
		s.config.Observe(name, outcome)
		respond(w, http.StatusOK, body)
	}
}

// withClient reads the parameters of a request and identifies its app before it calls the endpoint.
func (s *Server) withClient(endpoint func(*http.Request, parameters, client) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		p, err := readParameters(r)
		if err != nil {
			return nil, err
		}
		c, err := s.client(r, p)
		if err != nil {
			return nil, err
		}
		return endpoint(r, p, c)
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body) // an error means that the app has closed the connection
	}
}
