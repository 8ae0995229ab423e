package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/testmain"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/program"
)

var keywicket string // the keywicket binary that runs as the sidecar

func TestMain(m *testing.M) {
	testmain.Exit(run(m))
}

func run(m *testing.M) (code int, err error) {
	if sidecar := os.Getenv(killedDemoVariable); sidecar != "" {
		return 1, runUntilKilled(sidecar)
	}
	if keywicket, err = program.RaceKeywicket(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// setTempDir creates a folder, makes it the system's temporary folder, and returns it. Another user must be able to enter the
// folder: Postgres refuses to run as root, so as root the tests run Postgres as another user.
func setTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keywicket-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// start starts a demo. The test calls the returned function wantGone after Close. wantGone checks that no process, listener or file
// of the demo is left.
func start(t *testing.T) (d *demo.Demo, wantGone func()) {
	t.Helper()
	dir := setTempDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := demo.New(ctx, demo.Config{Keywicket: keywicket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	pids := []int{d.Postgres.PID(), d.Sidecar.PID(), d.Issuer.PID(), d.Envoy.PID()}
	database, err := url.Parse(d.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	addresses := []string{
		strings.TrimPrefix(d.VelaFlows, "http://"), strings.TrimPrefix(d.Velocity, "http://"), d.Envoy.Admin(),
		d.Sidecar.GRPC, d.Sidecar.Operations, d.Issuer.Addr, d.Live.Addr(), d.Sandbox.Addr(), database.Host,
	}
	for _, address := range addresses {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("no server listens on %s: %v", address, err)
		}
		_ = c.Close()
	}
	return d, func() {
		t.Helper()
		for _, pid := range pids {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the process %d still exists: %v", pid, err)
			}
		}
		for _, address := range addresses {
			if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a server still listens on %s: %v", address, err)
			}
		}
		wantEmpty(t, dir)
	}
}

func TestDemo(t *testing.T) {
	d, wantGone := start(t)
	t.Run("the tour passes", func(t *testing.T) { tourPasses(t, d) })
	t.Run("the summary fits a terminal, and its requests work when pasted", func(t *testing.T) { summaryWorks(t, d) })
	t.Run("Print writes everything that a user needs", func(t *testing.T) { printIsComplete(t, d) })
	t.Run("the printed OAuth steps work", func(t *testing.T) { stepsWork(t, d) })
	t.Run("Close leaves no process, listener or file", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Wait(cancelled); err != nil {
			t.Errorf("Wait returns an error after Ctrl-C: %v", err)
		}
		for range 2 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		wantGone()
	})
}

func tourPasses(t *testing.T, d *demo.Demo) {
	var out bytes.Buffer
	if err := d.Tour(t.Context(), &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	visited := make(map[string]int)
	rows := regexp.MustCompile(`(?m)^ok +(velaflows|velocity) +[A-Z]+ /`).FindAllStringSubmatch(out.String(), -1)
	for _, row := range rows {
		visited[row[1]]++
	}
	if len(rows) < 25 || visited["velaflows"] < 10 || visited["velocity"] < 10 ||
		!strings.HasSuffix(out.String(), fmt.Sprintf("\n%d requests, every answer as expected\n", len(rows))) {
		t.Errorf("the tour has %v steps:\n%s", visited, &out)
	}
}

func printIsComplete(t *testing.T, d *demo.Demo) {
	var out bytes.Buffer
	if err := d.Print(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, key := range []string{
		"velaflows  dashboard", "velaflows  chatbot", "velaflows  administrator", "velaflows  sandbox", "velaflows  expired",
		"velaflows  revoked", "velocity   read-only", "velocity   read-write", "velocity   settings", "velocity   ada's",
		"velocity   ada's admin",
	} {
		if !regexp.MustCompile(`(?m)^  ` + key + ` .* (sk_live_|sk_test_|vel_|velu_)\w{16,}$`).MatchString(text) {
			t.Errorf("there is no key %q", key)
		}
	}
	for _, example := range []string{ // the example keys in the API documents of VelaFlows and Velocity
		"sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0", "vel_your_api_key_here", "velu_your_personal_key_here",
	} {
		if !strings.Contains(text, example) {
			t.Errorf("the key %s is missing", example)
		}
	}
	urls := regexp.MustCompile(`[a-z]+://[^\s']+`).FindAllString(text, -1)
	for _, found := range urls {
		u, err := url.Parse(strings.TrimRight(found, ".,"))
		if err != nil || u.Hostname() != "127.0.0.1" {
			t.Errorf("%s is not on this machine: %v", found, err)
		}
	}
	// The expected response is above each request.
	requests := regexp.MustCompile(`(?m)^  # .+: (200 live|200 sandbox|40[13] [A-Z_]+ [a-z_]+)\n  curl -i .*http://127`).FindAllString(text, -1)
	if n := strings.Count(text, "\n  # "); n < 25 || len(requests) != n {
		t.Errorf("%d of %d requests have an expected response", len(requests), n)
	}
	if !strings.Contains(text, "export KEYWICKET_DATABASE_URL='"+d.DatabaseURL()+"'") || !strings.Contains(text, "Ctrl-C") {
		t.Errorf("the database URL or Ctrl-C is missing in\n%s", text)
	}
}

// stepsWork approves the app's authorization request, as a user does in the browser. Then it runs the printed steps in a shell.
func stepsWork(t *testing.T, d *demo.Demo) {
	var out bytes.Buffer
	if err := d.Print(&out); err != nil {
		t.Fatal(err)
	}
	_, link, _ := strings.Cut(out.String(), "\n  "+d.Velocity+"/oauth/consent?")
	query, rest, _ := strings.Cut(link, "\n")
	script, _, ok := strings.Cut(rest, "\nOr run an app")
	if !ok || !strings.Contains(script, "\n  CODE=\n") {
		t.Fatalf("there are no steps in\n%s", &out)
	}
	redirect, err := demo.NewUser("ada@example.com").Approve(t.Context(), d.Velocity+"/oauth/consent?"+query, "Your workspace")
	if err != nil {
		t.Fatal(err)
	}
	script = strings.Replace(script, "CODE=\n", "CODE="+redirect.Query().Get("code")+"\n", 1)
	printed, err := exec.CommandContext(t.Context(), "sh", "-e", "-c", script).CombinedOutput()
	text := string(printed)
	if err != nil || strings.Count(text, `"token_type":"Bearer"`) != 2 || strings.Count(text, "HTTP/1.1 200 OK") != 2 ||
		!strings.Contains(text, `"x-keywicket-workspace-slug":["your-workspace"]`) {
		t.Errorf("%v in\n%s", err, printed)
	}
	grants, err := exec.CommandContext(t.Context(), keywicket, "--database-url", d.DatabaseURL(), "grant", "list").CombinedOutput()
	if err != nil || !regexp.MustCompile(`Planner +ada@example\.com +issues:read issues:write +your-workspace .* revoked`).Match(grants) {
		t.Errorf("%v in\n%s", err, grants)
	}
}

// The tour reports each response that is not the expected one, and fails.
func TestTourReportsDifferences(t *testing.T) {
	d, wantGone := start(t)
	r, err := registry.Open(t.Context(), d.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveMember(t.Context(), "target-workspace", "ada@example.com"); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = d.Tour(t.Context(), &out)
	if err == nil || !regexp.MustCompile(`^4 of \d+ answers differ$`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
	if got := regexp.MustCompile(`(?m)^DIFFERS .* target-workspace .* 403 WORKSPACE_ACCESS_DENIED workspace_mismatch `).
		FindAllString(out.String(), -1); len(got) != 4 {
		t.Errorf("%d rows differ in\n%s", len(got), &out)
	}

	// Wait returns an error if a process ends by itself. Close still stops the other processes.
	if err := syscall.Kill(d.Sidecar.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := d.Wait(ctx); err == nil || !strings.Contains(err.Error(), "keywicket ended: signal: killed") {
		t.Errorf("a killed sidecar: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	wantGone()
}

func TestDemoThatCannotStart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	address := listener.Addr().String()
	for _, test := range []struct {
		name   string
		config demo.Config
		env    [2]string
		want   string
	}{
		{"a port in use", demo.Config{Velocity: address}, [2]string{},
			"envoy's listener velocity cannot listen on " + address + ": stop the process that listens there: "},
		{"no Envoy", demo.Config{}, [2]string{"ENVOY", "/nowhere/envoy"},
			`ENVOY=/nowhere/envoy cannot be run: no Envoy: run "make .tools/envoy", or set ENVOY to an Envoy `},
		{"no Postgres", demo.Config{}, [2]string{"PG_BIN", "/nowhere"},
			"no Postgres server in PG_BIN=/nowhere: set PG_BIN to the folder that contains initdb and postgres"},
		{"a sidecar that refuses to start", demo.Config{Environ: []string{"KEYWICKET_LOG_FORMAT=xml"}}, [2]string{},
			`keywicket: log.format: "xml" is neither json nor text`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := setTempDir(t)
			if test.env[0] != "" {
				t.Setenv(test.env[0], test.env[1])
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.config.Keywicket = keywicket
			d, err := demo.New(ctx, test.config)
			if err == nil {
				t.Fatal("the demo started", d.Close())
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			wantEmpty(t, dir)
		})
	}
}
