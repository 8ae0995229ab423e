package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// The paths that the API's document names, and those beside them.
const (
	tokenPath      = "/api/oauth/token"
	revokePath     = "/api/oauth/revoke"
	introspectPath = "/api/oauth/introspect"
	consentPath    = "/oauth/consent"
	metadataPath   = "/.well-known/oauth-authorization-server"
)

// Config of a Server.
type Config struct {
	// Issuer is the server's own URL, https://velocity.quest say, without a path or a slash at the end (RFC 8414, section 2).
	// One of http is for trying out, on a loopback address.
	Issuer string
	// API whose users consent, and whose apps ask; the Format of its access tokens, and the Scopes that an app may ask for.
	API    string
	Format authz.CredentialFormat
	Scopes []Scope
	// Verifier tells who is signed in there, by the token in the Cookie of this name. Sessions says when a session needs a
	// second factor.
	Verifier authz.Sessions
	Sessions authz.SessionFormat
	Cookie   string
	// SignIn is where a user who is not signed in is sent; the parameter return_to says where to come back to.
	SignIn string
	// AddressLimit is how many requests a minute are taken from one address, ClientLimit how many the endpoints for apps take from
	// one app; 0: any number.
	AddressLimit, ClientLimit int
	// Observe is told what became of each request: an endpoint, and "ok" or another word, of a bounded number of them.
	Observe func(endpoint, outcome string)
}

// Scope that an app may ask for.
type Scope struct {
	Name, Description string
	Workspace         bool // it is about what is in a workspace, and not about the user
}

// Server answers apps and asks users for consent. It is safe for concurrent use.
type Server struct {
	config  Config
	secure  bool // the users' browsers come by https
	foreign *http.CrossOriginProtection
	grants  *store.Issuer
	log     *slog.Logger

	addresses, clients *limits
}

// NewServer creates a server on the store.
func NewServer(c Config, grants *store.Issuer, log *slog.Logger) (*Server, error) {
	switch {
	case !validIssuer(c.Issuer):
		return nil, errors.New("url: the issuer's own address is like https://velocity.quest, without a slash at the end; http is for 127.0.0.1, [::1] and localhost alone")
	case !validSignIn(c.SignIn):
		return nil, errors.New("sign_in: where users sign in is an address like https://velocity.quest/login; http is for 127.0.0.1, [::1] and localhost alone")
	case (&http.Cookie{Name: c.Cookie}).Valid() != nil:
		return nil, errors.New("cookie: name the cookie that users' sessions are in, such as sb-PROJECT-auth-token")
	case c.Verifier == nil:
		return nil, errors.New("nothing here verifies sessions")
	case c.AddressLimit < 0:
		return nil, errors.New("address_limit: requests a minute, or 0 for any number")
	case c.ClientLimit < 0:
		return nil, errors.New("client_limit: requests a minute, or 0 for any number")
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	foreign := http.NewCrossOriginProtection()
	// Of a browser that does not say whether it is at the same origin; the Host may have lost its port on the way.
	if err := foreign.AddTrustedOrigin(c.Issuer); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return &Server{
		config: c, secure: strings.HasPrefix(c.Issuer, "https:"), foreign: foreign,
		grants: grants, log: log, addresses: newLimits(c.AddressLimit), clients: newLimits(c.ClientLimit),
	}, nil
}

// Handler serves all paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, s.answer("token", s.token))
	mux.HandleFunc("POST "+revokePath, s.answer("revoke", s.ofClient(s.revoke)))
	mux.HandleFunc("POST "+introspectPath, s.answer("introspect", s.ofClient(s.introspect)))
	mux.HandleFunc("GET "+metadataPath, s.metadata)
	mux.HandleFunc("GET "+consentPath, s.limited(s.consent))
	mux.HandleFunc("POST "+consentPath, s.limited(s.decide))
	return mux
}

// answer writes what an endpoint for apps has to say. Nothing of it is to be kept by anybody on the way (RFC 6749, section
// 5.1).
func (s *Server) answer(name string, endpoint func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		var body any
		err := tooMany(s.addresses.take(address(r)))
		if err == nil {
			body, err = endpoint(r)
		}
		if err != nil {
			s.config.Observe(name, s.refuse(w, r, err))
			return
		}
		s.config.Observe(name, "ok")
		respond(w, http.StatusOK, body)
	}
}

// ofClient reads the parameters of a request, and finds the app that asks.
func (s *Server) ofClient(endpoint func(*http.Request, parameters, client) (any, error)) func(*http.Request) (any, error) {
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
		_ = json.NewEncoder(w).Encode(body) // the app went away
	}
}
