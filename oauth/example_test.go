package oauth_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/issuer"
)

func Example() {
	apis := map[string]authz.API{"velocity": {Session: authz.SessionFormat{
		Issuer: "https://sign-in.example/auth/v1", HS256Secret: "a shared secret of at least 32 bytes",
	}}}
	verifier, err := session.New(session.Config{APIs: apis}, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	defer verifier.Close()
	grants, err := issuer.Open("postgres://keywicket_issuer@127.0.0.1/keywicket") // Open does not connect: the first query connects
	if err != nil {
		panic(err)
	}
	defer func() { _ = grants.Close() }()
	server, err := oauth.NewServer(oauth.Config{
		Issuer: "https://velocity.example", API: "velocity", SignInURL: "https://velocity.example/login",
		Format:   authz.CredentialFormat{Kind: authz.KindOAuthToken, Prefix: "velo_", BodyLength: 38},
		Scopes:   []oauth.Scope{{Name: "issues:read", Description: "Read issues", Workspace: true}},
		Verifier: verifier, Sessions: apis["velocity"].Session, Cookie: "sb-velocity-auth-token",
	}, grants, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}

	// Apps find the endpoints in the metadata (RFC 8414).
	response := httptest.NewRecorder()
	server.Handler().ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/.well-known/oauth-authorization-server", nil))
	var metadata map[string]any
	if err := json.Unmarshal(response.Body.Bytes(), &metadata); err != nil {
		panic(err)
	}
	fmt.Println(metadata["authorization_endpoint"])
	fmt.Println(metadata["token_endpoint"])
	fmt.Println(metadata["scopes_supported"])
	// Output:
	// https://velocity.example/oauth/consent
	// https://velocity.example/api/oauth/token
	// [issues:read]
}
