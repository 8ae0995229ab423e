// Command oauth-client is a small app that acts for a user. It opens the consent page, and prints the tokens and the API's
// responses. It is a native app (RFC 8252): its redirect address is on this machine, on a free port.
//
//	go run ./demo/oauth-client -issuer http://127.0.0.1:8001
//
// A confidential app takes its secret from $CLIENT_SECRET.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var a app
	flag.StringVar(&a.issuer, "issuer", "http://127.0.0.1:8001", "the issuer's `URL`")
	flag.StringVar(&a.ClientID, "client-id", "your_client_id", "the client id; the command \"keywicket oauth-app list\" shows it")
	scope := flag.String("scope", "issues:read issues:write", "the scopes to request")
	flag.StringVar(&a.call, "call", "/api/issues", "the `path` of the API that the app requests with the access token")
	flag.StringVar(&a.workspace, "workspace", "", "the slug of the workspace for the call, if the user chose several workspaces")
	flag.StringVar(&a.browser, "browser", os.Getenv("BROWSER"), "`command` that opens an address in a browser; the variable $BROWSER sets the default")
	flag.DurationVar(&a.patience, "patience", 5*time.Minute, "how long to wait for the user")
	flag.Parse()
	a.Scopes = strings.Fields(*scope)
	a.ClientSecret = os.Getenv("CLIENT_SECRET") // an argument would be visible to all users of the machine
	if err := a.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "oauth-client:", err)
		os.Exit(1)
	}
}

type app struct {
	oauth2.Config
	issuer, call, workspace, browser string
	patience                         time.Duration
}

// metadata contains the fields of RFC 8414, section 2, that this command needs.
type metadata struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
}

func (a *app) run(ctx context.Context, w io.Writer) error {
	m, err := discover(ctx, a.issuer)
	if err != nil {
		return err
	}
	a.Endpoint = oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token, AuthStyle: oauth2.AuthStyleInParams}
	if a.ClientSecret != "" {
		a.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	code, verifier, err := a.authorize(ctx, m, w)
	if err != nil {
		return err
	}
	token, err := a.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThe user allowed: %v\n  access token   %s, for %s\n  refresh token  %s\n", token.Extra("scope"),
		visiblePart(token.AccessToken), time.Until(token.Expiry).Round(time.Minute), visiblePart(token.RefreshToken))
	if err := a.callAPI(ctx, w, token); err != nil {
		return err
	}

	token.Expiry = time.Now().Add(-time.Minute) // makes the library refresh the token
	if token, err = a.TokenSource(ctx, token).Token(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nRefreshed:\n  access token   %s\n", visiblePart(token.AccessToken))
	if err := a.callAPI(ctx, w, token); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nRevoked, a second later:")
	if err := a.revoke(ctx, m.Revocation, token.RefreshToken); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second): // keywicket's staleness bound, cache.staleness_bound
	}
	return a.callAPI(ctx, w, token)
}

// discover reads the issuer's metadata. The issuer in the metadata must be this issuer (RFC 8414, section 3.3).
func discover(ctx context.Context, issuer string) (metadata, error) {
	var m metadata
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return m, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return m, fmt.Errorf("no issuer responds at %s: run make demo: %w", issuer, err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(&m); err != nil || m.Issuer != issuer {
		return m, fmt.Errorf("%s responds with %s, but not with the metadata of an issuer with this URL", issuer, response.Status)
	}
	return m, nil
}

// authorize opens the consent page and waits for the redirect at the app's own address. It returns the code and the verifier.
func (a *app) authorize(ctx context.Context, m metadata, w io.Writer) (code, verifier string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	a.RedirectURL = "http://" + listener.Addr().String() + "/callback"
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	responses := make(chan url.Values, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		response := r.URL.Query()
		if response.Get("state") != state || response.Get("iss") != m.Issuer { // RFC 9700, section 4.7; RFC 9207, section 2.4
			http.Error(w, "This answer belongs to another request or issuer.", http.StatusBadRequest)
			return
		}
		select {
		case responses <- response:
		default: // a response has already arrived
		}
		_, _ = io.WriteString(w, "The app has received the answer. Return to its terminal.\n")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }() // returns at Shutdown
	defer func() { _ = server.Shutdown(context.WithoutCancel(ctx)) }()

	address := a.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
	fmt.Fprintf(w, "Open this URL, sign in, and allow or deny the request:\n\n  %s\n", address)
	open(ctx, a.browser, address)
	select {
	case <-ctx.Done():
		return "", "", errors.New("interrupted")
	case <-time.After(a.patience):
		return "", "", errors.New("the user did not answer in time")
	case response := <-responses:
		if response.Get("error") != "" {
			return "", "", errors.New(strings.TrimSpace("the answer is " + response.Get("error") + " " + response.Get("error_description")))
		}
		return response.Get("code"), verifier, nil
	}
}

// open opens the address in a browser. Without a browser, the user copies the address from the output.
func open(ctx context.Context, browser, address string) {
	for _, name := range []string{browser, "xdg-open", "open"} {
		if path, err := exec.LookPath(name); err == nil {
			command := exec.CommandContext(ctx, path, address)
			if command.Start() == nil {
				go func() { _ = command.Wait() }()
				return
			}
		}
	}
}

// callAPI calls the API with the token, and prints the status and keywicket's headers.
func (a *app) callAPI(ctx context.Context, w io.Writer, token *oauth2.Token) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.issuer+a.call, nil)
	if err != nil {
		return err
	}
	token.SetAuthHeader(request)
	if a.workspace != "" {
		request.Header.Set("X-Workspace-Slug", a.workspace)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  GET %s → %s\n", a.call, response.Status)
	var echo struct {
		Headers map[string][]string // the request headers that the demo's upstream received
		Error   struct{ Code, Reason string }
	}
	if json.Unmarshal(body, &echo) != nil {
		return nil // not the demo's upstream
	}
	if echo.Error.Code != "" {
		fmt.Fprintf(w, "    %s %s\n", echo.Error.Code, echo.Error.Reason)
	}
	for _, name := range []string{"kind", "user-id", "workspace-slug", "scopes"} {
		if value := echo.Headers["x-keywicket-"+name]; value != nil {
			fmt.Fprintf(w, "    x-keywicket-%s: %s\n", name, strings.Join(value, " "))
		}
	}
	return nil
}

// revoke revokes the token (RFC 7009). The issuer then also revokes the user's grant.
func (a *app) revoke(ctx context.Context, endpoint, token string) error {
	form := url.Values{"token": {token}, "client_id": {a.ClientID}}
	if a.ClientSecret != "" {
		form.Set("client_secret", a.ClientSecret)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("revoke: %s", response.Status)
	}
	return nil
}

// visiblePart returns the part of a token that may appear on a screen.
func visiblePart(token string) string { return cmp.Or(token, "none")[:min(len(token), 9)] + "…" }
