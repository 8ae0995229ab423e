package oauth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
)

// libraries maps the name of each client library to its program: a folder of clients, and the name for the script run in it.
var libraries = map[string]string{
	"Authlib":           "python authlib",
	"requests-oauthlib": "python requests_oauthlib",
	"openid-client":     "node openid-client",
	"simple-oauth2":     "node simple-oauth2",
	"passport-oauth2":   "node passport-oauth2",
	"Auth.js":           "node auth.js",
	"Nimbus":            "java Nimbus",
	"Spring Security":   "java Spring",
	"Rust oauth2":       "rust oauth2",
}

// Unmodified client libraries, used as their documentation shows, ask for consent, exchange the code, call the API, refresh the
// token and revoke it. After that, Envoy refuses the call. clients/README.md describes the programs that use the libraries.
func TestClientLibraries(t *testing.T) {
	harness.SkipIfShort(t)
	t.Parallel()
	d := startDemo(t)
	// The programs for Auth.js and Spring Security have redirect URIs of their own.
	more := []string{"--redirect-uri", "https://yourapp.example/auth/callback/keywicket", "--redirect-uri", "http://127.0.0.1/callback"}
	apps := map[string]harness.App{
		"without a secret": {ID: harness.RegisterApp(t, d.Stack, more...).ID},
		"confidential":     harness.RegisterApp(t, d.Stack, append(more, "--confidential")...),
	}
	for name, program := range libraries {
		for kind, app := range apps {
			t.Run(name+"/"+kind, func(t *testing.T) {
				c := startClient(t, program, "ISSUER="+d.Velocity, "CLIENT_ID="+app.ID, "CLIENT_SECRET="+app.Secret,
					"REDIRECT_URI="+harness.AppAddress, "SCOPE=issues:read user:read")
				back, err := demo.NewUser("ada@example.com").Approve(t.Context(), c.must("authorize"), "Your workspace")
				if err != nil {
					t.Fatal(err)
				}
				first := c.must("exchange " + back.String())
				for path, want := range map[string]string{"/api/issues": "200", "/api/user": "200", "/api/projects": "403"} {
					if got := c.do("call " + path); got != want {
						t.Errorf("%s: %s, not %s", path, got, want)
					}
				}
				if c.must("refresh") == first {
					t.Error("the refresh returns the same access token")
				}
				if got := c.do("call /api/issues"); got != "200" {
					t.Errorf("after the refresh: %s", got)
				}
				c.must("revoke")
				harness.Await(t, "the access token is revoked", func() bool { return c.do("call /api/issues") == "401" })
				if got := c.do("refresh"); !strings.HasPrefix(got, "error ") || !strings.Contains(got, "invalid_grant") {
					t.Errorf("the refresh after the revocation: %s", got)
				}
			})
		}
	}
}

// The table in oauth.md lists each of these libraries.
func TestDocumentedLibrariesAreTested(t *testing.T) {
	text, err := os.ReadFile("../../docs/oauth.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("`TestClientLibraries/([^`]*)`").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, strings.ReplaceAll(m[1], "_", " "))
	}
	slices.Sort(documented)
	if tested := slices.Sorted(maps.Keys(libraries)); !slices.Equal(documented, tested) {
		t.Errorf("oauth.md lists the tests of %q, not of %q", documented, tested)
	}
}

// client is a running program of the folder clients.
type client struct {
	t      *testing.T
	in     io.Writer
	out    *bufio.Reader
	stderr bytes.Buffer
}

// startClient starts a program of the folder clients. The program is a language and the name of a library.
func startClient(t *testing.T, program string, environ ...string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute) // the cleanup still needs the program
	language, library, _ := strings.Cut(program, " ")
	command := exec.CommandContext(ctx, "clients/"+language+"/run", library)
	command.Env = append(os.Environ(), environ...)
	c := &client{t: t}
	command.Stderr = &c.stderr
	in, err := command.StdinPipe()
	out, errOut := command.StdoutPipe()
	if err := errors.Join(err, errOut); err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the program stops at the end of its input
		_ = in.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %s", err, &c.stderr)
		}
		cancel()
	})
	c.in, c.out = in, bufio.NewReader(out)
	return c
}

// must is like do, but fails the test if the answer is an error.
func (c *client) must(command string) string {
	c.t.Helper()
	answer := c.do(command)
	if strings.HasPrefix(answer, "error ") {
		c.t.Fatalf("%s: %s", command, answer)
	}
	return answer
}

// do sends a command to the program and returns the answer.
func (c *client) do(command string) string {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, command)
	answer, errRead := c.out.ReadString('\n')
	if err := errors.Join(err, errRead); err != nil {
		c.t.Fatalf("%s: %v", command, err) // the cleanup prints what the program has written to stderr
	}
	return strings.TrimSuffix(answer, "\n")
}
