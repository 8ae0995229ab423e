// Package signin replaces Supabase in the demo. Users choose an account and sign in without a password. The server signs the tokens
// of their sessions with its own key, and serves the public key.
package signin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	keysPath  = "/auth/v1/.well-known/jwks.json"
	loginPath = "/login"

	// cookie is the name of the cookie that Supabase's libraries write for a project named "demo".
	cookie = "sb-demo-auth-token"
)

// Server is a running sign-in server.
type Server struct {
	http *http.Server
	base string
	key  *ecdsa.PrivateKey
	id   string // the key's id

	mu    sync.Mutex
	users []user
}

type user struct{ ID, Email string }

//go:embed login.html
var loginHTML string

var login = template.Must(template.New("login").Parse(loginHTML))

// Start creates a key and listens on addr, such as 127.0.0.1:0 for a free port.
func Start(addr string) (*Server, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create the key for session tokens: %w", err)
	}
	s := &Server{key: key, id: rand.Text()}
	public, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.AlgES256, KID: s.id, USE: jwkset.UseSig},
	})
	if err != nil {
		return nil, fmt.Errorf("publish the key for session tokens: %w", err)
	}
	keys, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{public.Marshal()}})
	if err != nil {
		return nil, fmt.Errorf("publish the key for session tokens: %w", err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the sign-in server cannot listen on %s: %w", addr, errors.Unwrap(err))
	}
	s.base = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+keysPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(keys)
	})
	mux.HandleFunc("GET "+loginPath, s.showPage)
	mux.HandleFunc("POST "+loginPath, s.signIn)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(listener) }() // returns at Close
	return s, nil
}

// Close stops the server.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// Environ returns settings for the sidecar, the OAuth issuer and the console. With these settings, the APIs accept the sessions,
// VelaFlows only for the console. The issuer and the console redirect users to this server.
func (s *Server) Environ() []string {
	environ := []string{
		"KEYWICKET_ISSUER_SIGN_IN=" + s.base + loginPath,
		"KEYWICKET_ISSUER_COOKIE=" + cookie,
	}
	for _, api := range []string{"VELAFLOWS", "VELOCITY"} {
		environ = append(environ,
			"KEYWICKET_APIS_"+api+"_SESSION_ISSUER="+s.base+"/auth/v1",
			"KEYWICKET_APIS_"+api+"_SESSION_JWKS_URL="+s.base+keysPath,
			"KEYWICKET_APIS_"+api+"_SESSION_SHARED_CLOCK=true", // this server and the demo's Postgres run on one machine
			"KEYWICKET_CONSOLE_APIS_"+api+"_SIGN_IN="+s.base+loginPath,
			"KEYWICKET_CONSOLE_APIS_"+api+"_COOKIE="+cookie,
		)
	}
	return environ
}

// AddUser adds a user to the accounts on the sign-in page.
func (s *Server) AddUser(id, email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = append(s.users, user{id, email})
}

// Token returns the token of a session that begins now, in the form that Supabase uses. The token expires after the duration in
// the parameter `lifetime`.
func (s *Server) Token(user, session string, lifetime time.Duration) (string, error) {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": s.base + "/auth/v1", "aud": "authenticated", "sub": user, "role": "authenticated", "session_id": session,
		"iat": now.Unix(), "exp": now.Add(lifetime).Unix(), "aal": "aal1", "is_anonymous": false,
		"amr": []map[string]any{{"method": "password", "timestamp": now.Unix()}},
	})
	token.Header["kid"] = s.id
	return token.SignedString(s.key)
}

func (s *Server) showPage(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = login.Execute(w, s.users) // an error means that the browser closed the connection
}

// signIn starts a session, sets the cookie that Supabase's libraries would set, and redirects to return_to. Cookies do not
// depend on the port, so the browser also sends this cookie to Envoy's listeners.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	users := s.users
	s.mu.Unlock()
	id := r.PostFormValue("user")
	returnTo, err := url.Parse(r.URL.Query().Get("return_to"))
	switch {
	case !slices.ContainsFunc(users, func(u user) bool { return u.ID == id }):
		http.Error(w, "There is no such user.", http.StatusBadRequest)
		return
	case err != nil || returnTo.Scheme != "http" || returnTo.Hostname() != "127.0.0.1":
		http.Error(w, "return_to is not an address of this machine.", http.StatusBadRequest)
		return
	}
	token, err := s.Token(id, rand.Text(), time.Hour)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text, err := json.Marshal(map[string]string{"access_token": token})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // the demo is served without TLS, and only on this machine
		Name: cookie, Value: "base64-" + base64.RawURLEncoding.EncodeToString(text), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, returnTo.String(), http.StatusSeeOther)
}
