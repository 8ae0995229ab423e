package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/supabase"
	"github.com/keywicket/keywicket/test/wire"
)

// leakStack is a stack whose outputs are recorded.
type leakStack struct {
	*demo.Stack
	log          syncbuffer.Buffer
	client       *harness.Client
	secrets      traces
	tokenOutputs []string            // outputs of the commands that show a token
	outputs      map[string][]string // all outputs, by their source
	placeholders *strings.Replacer   // replaces the words in capitals, such as HOME, in inputs_test.go
}

func newLeakStack(t *testing.T, c demo.Config) *leakStack {
	t.Helper()
	s := &leakStack{secrets: traces{}, outputs: map[string][]string{}}
	c.Log = &s.log
	s.Stack = harness.StartStack(t, c)
	s.client = harness.NewClient(t, s.Stack, 1)
	return s
}

func (s *leakStack) record(what, text string) { s.outputs[what] = append(s.outputs[what], text) }

// run runs a command. The parameter `succeeds` tells whether the command must succeed.
func (s *leakStack) run(t *testing.T, succeeds bool, stdin string, args ...string) (stdout string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := harness.Command(ctx, t, s.Stack, args...)
	if slices.Contains(args, "--config") {
		c.Env = append(c.Env, "KEYWICKET_DATABASE_URL=") // so that the file's URL is used
	}
	var output, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &output, &stderr
	err := c.Run()
	if (err == nil) != succeeds || ctx.Err() != nil {
		t.Errorf("keywicket %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	s.record("standard error of commands", stderr.String())
	return output.String()
}

// create creates a token. The output of this command contains the token, and no other output may contain it.
func (s *leakStack) create(t *testing.T, prefix string, more ...string) (created harness.Token) {
	t.Helper()
	args := append([]string{"token", "create", "--name", "n", "--prefix", prefix, "--output", "json"}, more...)
	out := s.run(t, true, "", args...)
	if err := json.Unmarshal([]byte(out), &created); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	s.tokenOutputs = append(s.tokenOutputs, out)
	s.secrets.addToken(created.Token, created.Prefix)
	return created
}

// send sends a request and records the response. The upstream's echo contains headers of the client, because Envoy passes them
// on. send removes these headers from the echo: all except Authorization, and on a public route Authorization too.
func (s *leakStack) send(t *testing.T, r harness.Request, outcome string) {
	t.Helper()
	var a harness.Response
	harness.Await(t, "an answer", func() bool {
		a = s.client.Send(t, r)
		s.record("headers of answers", fmt.Sprint(a.Header))
		if a.Outcome != "allow" {
			s.record("bodies of answers", a.Body)
		}
		return a.Outcome != harness.Unavailable || outcome == harness.Unavailable // on a slow machine look-ups time out
	})
	if a.Outcome != outcome {
		t.Errorf("%s %s with %v: %s, not %s", r.Method, r.Path, r.Header, a.Outcome, outcome)
	}
	for _, h := range r.Header {
		s.secrets.addDigest(strings.TrimPrefix(h[1], "Bearer "))
		if h[0] != "Authorization" || a.Echo.Headers["x-keywicket-subject"] == nil {
			delete(a.Echo.Headers, strings.ToLower(h[0]))
		}
	}
	s.record("headers at the upstream", fmt.Sprint(a.Echo.Headers))
}

func (s *leakStack) fetch(t *testing.T, address string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		s.record(path, s.client.Get(t, "http://"+address+path).Body)
	}
}

// runOperatorCommands runs commands of operators: commands that succeed, and commands that fail.
func (s *leakStack) runOperatorCommands(t *testing.T) {
	t.Helper()
	run := func(succeeds bool, stdin string, args ...string) {
		t.Helper()
		s.record("standard output of commands", s.run(t, succeeds, s.placeholders.Replace(stdin), args...))
	}
	for _, format := range []string{"csv", "ndjson"} {
		args := []string{"token", "import", "--prefix", "sk_live_", "--format", format}
		run(true, imports[format], args...)
		for _, text := range badImports[format] {
			run(false, text, args...)
		}
	}
	for line := range strings.Lines(inspections) {
		run(true, "", strings.Fields(s.placeholders.Replace(line))...)
	}
	run(true, "SECRET", "token", "verify", "--output", "json")
	for _, text := range unverified {
		run(false, text, "token", "verify")
	}
	run(true, leaked, "token", "leaked", "--wait")
	run(true, leaked, "token", "leaked", "--output", "json")
	for line := range strings.Lines(mistakes) {
		run(false, "", strings.Fields(s.placeholders.Replace(line))...)
	}
	for _, text := range misconfigurations {
		file := filepath.Join(t.TempDir(), "keywicket.yaml")
		harness.AppendFile(t, file, s.placeholders.Replace(text))
		run(false, "", "serve", "--config", file)
	}
}

// verifySessions runs `token verify` with the tokens of sessions. The value of a token tells whether it is good. If the issuer's keys
// cannot be fetched, no token is good.
func (s *leakStack) verifySessions(t *testing.T, issuer *supabase.Issuer, tokens map[string]bool) {
	t.Helper()
	for _, address := range []string{"//keywicket:PASSWORD@" + strings.TrimPrefix(issuer.URL, "http://") + "?apikey=", "//keywicket:PASSWORD@127.0.0.1:1?apikey="} {
		file := filepath.Join(t.TempDir(), "keywicket.yaml")
		harness.AppendFile(t, file, s.placeholders.Replace(fmt.Sprintf(sessionConfig, supabase.IssuerClaim, issuer.Secret, address)))
		for token, good := range tokens {
			for _, output := range []string{"text", "json"} {
				args := []string{"token", "verify", "--config", file, "--database-url", s.DatabaseURL(), "--output", output}
				s.record("standard output of commands", s.run(t, good && !strings.Contains(address, ":1?"), token, args...))
			}
		}
	}
}

// importDuringInsert runs an import while another client creates one of the imported tokens. Postgres refuses the second
// insert, and logs an error.
func (s *leakStack) importDuringInsert(t *testing.T, key string) {
	t.Helper()
	db := harness.OpenDatabase(t, s.Stack)
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	digest := authz.Secret(key).Digest()
	_, err = tx.ExecContext(t.Context(), `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velaflows', 'workspace_token', 'live', 'sk_live_', $1, 'n', '{}', max(id) FROM keywicket.workspaces`, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() {
		committed <- errors.Join(harness.Poll(t.Context(), "the import waits for the other transaction", func() bool {
			var waiting bool
			err := db.GetContext(t.Context(), &waiting, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`)
			return err == nil && waiting
		}), tx.Commit())
	}()
	s.run(t, false, s.placeholders.Replace("token,name,scopes,workspace\nRACED,n,inbox:read,HOME\n"), "token", "import", "--prefix", "sk_live_")
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
}

// checkDirectly sends checks without Envoy, as a policy enforcement point (PEP) that validates nothing.
func (s *leakStack) checkDirectly(t *testing.T, token, workspace string) {
	t.Helper()
	conn, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pdp := authv3.NewAuthorizationClient(conn)
	bearer := &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + token)}
	workspaceHeader := &corev3.HeaderValue{Key: "x-workspace-id", Value: workspace}
	for _, c := range []struct {
		api, path string
		header    []*corev3.HeaderValue
		want      string
	}{
		{"velaflows", "/api/v1/inbox/conversations", []*corev3.HeaderValue{bearer, workspaceHeader}, "allow"},
		{"velaflows", "/api/v1/inbox/conversations", []*corev3.HeaderValue{bearer, bearer, workspaceHeader}, "401 UNAUTHORIZED malformed"},
		{"velaflows", "/" + token + "\x00?access_token=" + token, []*corev3.HeaderValue{bearer, workspaceHeader}, "403 FORBIDDEN no_route"},
		{"velaflows", token, []*corev3.HeaderValue{{Key: token, Value: token}}, "401 UNAUTHORIZED missing"},
		{"zoo", "/", []*corev3.HeaderValue{bearer}, "503 UNAVAILABLE unavailable"},
	} {
		request := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: "GET", Path: c.path, Host: token, HeaderMap: &corev3.HeaderMap{Headers: c.header},
			}},
			ContextExtensions: map[string]string{"api": c.api},
		}}
		harness.Await(t, c.api+" "+c.path+": "+c.want, func() bool {
			answer, err := pdp.Check(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			s.record("checks, with their metadata,", answer.String())
			return wire.OutcomeOf(t, answer) == c.want
		})
	}
}

// causeFailures sends the request three times: while a lock delays look-ups, without a database, and without a sidecar. Before
// the third time, the sidecar gets SIGTERM. It exits, and loses the times when tokens were last used, because it cannot write
// them.
func (s *leakStack) causeFailures(t *testing.T, r harness.Request) {
	t.Helper()
	tx, err := harness.OpenDatabase(t, s.Stack).BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE keywicket.tokens IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	s.send(t, r, harness.Unavailable)
	if err := errors.Join(tx.Rollback(), s.Postgres.Stop()); err != nil {
		t.Fatal(err)
	}
	s.send(t, r, harness.Unavailable)
	s.run(t, false, "", "token", "list")
	s.fetch(t, s.Sidecar.Operations, "/metrics", "/readyz", "/livez")
	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-s.Sidecar.Done()
	s.send(t, r, harness.Unavailable)
	s.fetch(t, s.Envoy.Admin(), "/stats", "/stats/prometheus", "/clusters", "/config_dump")
}
