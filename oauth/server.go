package oauth

import (
	"encoding/json"
	"log/slog"
	"net/http"

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
	// Issuer is the server's own URL, https://velocity.quest say, without a slash at the end (RFC 8414, section 2).
	Issuer string
	// Format of the access tokens, by API.
	Formats map[string]authz.CredentialFormat
	// Scopes that an app may ask for.
	Scopes []string
}

// Server answers apps. It is safe for concurrent use.
type Server struct {
	config Config
	grants *store.Issuer
	log    *slog.Logger
}

// NewServer makes a server on the store.
func NewServer(c Config, grants *store.Issuer, log *slog.Logger) *Server {
	return &Server{config: c, grants: grants, log: log}
}

// Handler serves all paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, s.answer(s.token))
	mux.HandleFunc("POST "+revokePath, s.answer(s.revoke))
	mux.HandleFunc("POST "+introspectPath, s.answer(s.introspect))
	mux.HandleFunc("GET "+metadataPath, s.metadata)
	return mux
}

// answer writes what an endpoint for apps has to say. Nothing of it is to be kept by anybody on the way (RFC 6749, section
// 5.1).
func (s *Server) answer(endpoint func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		body, err := endpoint(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		respond(w, http.StatusOK, body)
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body) // the app went away
	}
}
