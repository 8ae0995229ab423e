package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/syncbuffer"
)

// The console has an endpoint for secret scanners if the URL of their keys is configured. A signed report revokes a token.
func TestConsoleTakesReportsOfLeakedTokens(t *testing.T) {
	databaseURL, err := newDatabase(migratedTemplate)
	if err != nil {
		t.Fatal(err)
	}
	runCommand(t, databaseURL, "workspace", "create", "--slug", "acme", "--name", "Acme")
	token := runCommand(t, databaseURL, "token", "create", "--prefix", "vel_", "--workspace", "acme", "--name", "CI", "--access", "read")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		_ = json.NewEncoder(w).Encode(map[string]any{"public_keys": []map[string]any{{"key_identifier": "k", "key": string(public), "is_current": true}}})
	}))
	defer keys.Close()
	body := `[{"token":"` + token["token"].(string) + `","type":"my_type","url":"","source":"commit"}]`
	digest := sha256.Sum256([]byte(body))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	for _, configured := range []bool{false, true} {
		environ := []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL, "KEYWICKET_CONSOLE_APIS_VELOCITY_URL=https://velocity.quest",
			"KEYWICKET_CONSOLE_APIS_VELOCITY_SIGN_IN=https://velocity.quest/login", "KEYWICKET_CONSOLE_APIS_VELOCITY_COOKIE=c",
			"KEYWICKET_APIS_VELOCITY_SESSION_ISSUER=https://auth.example", "KEYWICKET_APIS_VELOCITY_SESSION_HS256_SECRET=" + strings.Repeat("s", 32),
		}
		if configured {
			environ = append(environ, "KEYWICKET_CONSOLE_SCANNER_KEYS_URL="+keys.URL)
		}
		send, stop := startConsole(t, environ)
		for _, signed := range []bool{false, true} {
			header := http.Header{"Github-Public-Key-Identifier": {"k"}}
			if signed {
				header.Set("Github-Public-Key-Signature", base64.StdEncoding.EncodeToString(signature))
			}
			status, text := send(body, header)
			switch {
			case configured && signed:
				if status != http.StatusOK || !strings.Contains(text, `"label":"true_positive"`) {
					t.Errorf("signed: %d %s", status, text)
				}
			case configured:
				if status != http.StatusUnauthorized {
					t.Errorf("unsigned: %d %s", status, text)
				}
			case status == http.StatusOK || status == http.StatusUnauthorized:
				t.Errorf("without the setting: %d %s", status, text)
			}
		}
		stop()
	}
	if listed := runCommand(t, databaseURL, "token", "list"); listed["revoked_reason"] != "leaked" {
		t.Errorf("%v", listed)
	}
}

// startConsole runs `keywicket console` in this process, on a Unix socket. The function send posts a report of leaked tokens.
func startConsole(t *testing.T, environ []string) (send func(body string, header http.Header) (int, string), stop func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "console.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var log syncbuffer.Buffer
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"console"}, append(environ, "KEYWICKET_CONSOLE_LISTEN=unix://"+socket), io.Discard, &log)
	}()
	if err := awaitProbe("unix://"+socket, "/readyz"); err != nil {
		t.Fatalf("%v: %s", err, log.String())
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	send = func(body string, header http.Header) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://console/api/keywicket/v1/leaked", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = header
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	return send, func() {
		client.CloseIdleConnections()
		cancel()
		if code := <-status; code != 0 {
			t.Errorf("the console exited with %d: %s", code, log.String())
		}
	}
}
