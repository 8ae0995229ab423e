package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// FuzzConfiguration passes a configuration file and an environment variable to Load. Load must return an error, or a
// configuration with which a sidecar can start.
func FuzzConfiguration(f *testing.F) {
	f.Add(string(defaults), "KEYWICKET_LISTEN_GRPC", "unix:///run/keywicket.sock")
	for _, text := range []string{
		"", "apis:\n", "apis: {}\n", "apis: {x: {}}\n", "listen: {grpc: ''}\n", "database: {lookup_timeout: -1s}\n", "log: {level: loud}\n",
		"apis: {x: {workspace: {header: x-w, by: id}, credentials: [{kind: workspace_key, prefix: a_}, {kind: workspace_key, prefix: a_}]}}\n",
		"forward_credential: no\n", "allowed_headers: [cookie]\n", "a: &a [*a]\n", "listen: {}\n---\nlisten: {}\n", "\xff",
	} {
		f.Add(text, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT", "1")
	}
	file := filepath.Join(f.TempDir(), "keywicket.yaml")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file, []string{name + "=" + value}, nil)
		if err != nil {
			if err.Error() == "" {
				t.Fatalf("%q: the error has no text", text)
			}
			return
		}
		_, err = authz.New(authz.Config{APIs: c.APIs, DefaultAPI: c.DefaultAPI, AllowedHeaders: c.AllowedHeaders}, nil, nil)
		if err != nil && !strings.HasPrefix(err.Error(), "default_api: ") && !strings.HasPrefix(err.Error(), "allowed_headers: ") &&
			!strings.HasPrefix(err.Error(), "apis: ") {
			t.Fatalf("%q was accepted, but authz.New returned %v", text, err)
		}
		if c.Listen.GRPC == "" || c.Listen.Operations == "" || c.Listen.LameDuck < 0 || c.Listen.Drain <= 0 || c.Database.LookupTimeout <= 0 ||
			c.Database.MaxOpenConnections < 1 {
			t.Fatalf("%q was accepted as %+v", text, c)
		}
	})
}
