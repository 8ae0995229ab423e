package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/program"
)

// Command returns a command of the real keywicket binary with the stack's database. The caller runs the command.
func Command(ctx context.Context, t testing.TB, s *demo.Stack, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(ctx, buildPath(t, program.Keywicket), args...)
	c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KEYWICKET_") })
	c.Env = append(c.Env, "KEYWICKET_DATABASE_URL="+s.DatabaseURL())
	return c
}

// Keywicket runs a keywicket command, and decodes the JSON that the command prints. If the command fails, the test fails.
func Keywicket[T any](t testing.TB, s *demo.Stack, args ...string) (printed T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := Command(ctx, t, s, append(args, "--output", "json")...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("keywicket %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	if err := json.Unmarshal(out, &printed); err != nil {
		t.Fatalf("keywicket %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return printed
}

// Token is the output of `token create`.
type Token struct {
	ID, Token, Prefix string
	ExpiresAt         *time.Time `json:"expires_at"`
}

// ListedToken is an entry of `token list`.
type ListedToken struct {
	ID, Status string
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

// IssueToken creates a token of the workspace with `token create`. Commas separate the scopes. The parameter more contains
// further arguments.
func IssueToken(t testing.TB, s *demo.Stack, prefix, workspace, scopes string, more ...string) Token {
	t.Helper()
	return Keywicket[Token](t, s, append([]string{
		"token", "create", "--prefix", prefix, "--workspace", workspace, "--name", t.Name(), "--scope", scopes,
	}, more...)...)
}

// CreateWorkspace creates a workspace with a slug that no other workspace of this process has.
func CreateWorkspace(t testing.TB, s *demo.Stack) registry.Workspace {
	t.Helper()
	slug := fmt.Sprintf("tenant-%d", workspaces.Add(1))
	return Keywicket[registry.Workspace](t, s, "workspace", "create", "--slug", slug, "--name", "Tenant")
}

var workspaces atomic.Int64

// App is an OAuth app that is registered with a deployment.
type App struct {
	ID     string
	Secret string `json:"client_secret"`
}

// AppAddress is the redirect URI of the apps that RegisterApp registers.
const AppAddress = "https://yourapp.example/callback"

// RegisterApp registers an app with `oauth-app create`. The parameter `more` contains further arguments.
func RegisterApp(t testing.TB, s *demo.Stack, more ...string) App {
	t.Helper()
	return Keywicket[App](t, s, append([]string{"oauth-app", "create", "--name", "Planner", "--redirect-uri", AppAddress}, more...)...)
}
