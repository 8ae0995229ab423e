package demo_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/own"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
)

// startOwn starts a demo with the policies of a folder, and optionally with a configuration file.
func startOwn(t *testing.T, config, dir string) *demo.Demo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	policies, environ, err := own.Load(ctx, config, dir)
	if err != nil {
		t.Fatal(err)
	}
	if policies == nil {
		t.Fatal("the demo would use the tour of the samples")
	}
	d, err := demo.New(ctx, demo.Config{Keywicket: keywicket, Own: policies, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// tourOf returns what Tour prints, with single spaces.
func tourOf(t *testing.T, d *demo.Demo) string {
	t.Helper()
	var out bytes.Buffer
	if err := d.Tour(t.Context(), &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	return regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
}

// wantLines checks that the text contains all these lines, or parts of lines.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

// rulesOnly returns a folder that contains the shipped rules, no table and no test.
func rulesOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"keywicket/decision.rego", "keywicket/route.rego"} {
		text, err := os.ReadFile(filepath.Join("..", "policies", name))
		if err != nil {
			t.Fatal(err)
		}
		harness.AppendFile(t, filepath.Join(dir, name), string(text))
	}
	return dir
}

const zoo = `
scopes:
  workspace:
    animals:read: Look at animals
    animals:feed: Feed animals
  user:
    user:read: Read your own profile
overrides: {}
roles:
  keeper: [animals:read]
routes:
  - {method: GET, path: /, public: true}
  - {method: GET, path: /animals, scopes: [animals:read]}
  - {method: POST, path: "/animals/{animal}:feed", scopes: [animals:feed]}
  - {method: HEAD, path: "/photos/{path...}", scopes: [animals:read]}
  - {method: GET, path: /me, level: user, scopes: [user:read]}
  - {grpc: zoo.v1.Animals/List, scopes: [animals:read]}
`

// The policies have only an API of the user. Without a configuration file, the demo generates one, and says how to use it.
func TestDemoWithAnAPIOfOnesOwn(t *testing.T) {
	setTempDir(t)
	dir := rulesOnly(t)
	harness.AppendFile(t, filepath.Join(dir, "apis", "zoo", "data.yaml"), zoo)
	d := startOwn(t, "", dir)
	text := summary(t, d)
	fits(t, text)
	t.Logf("\n%s", text)
	wantLines(t, text, "zoo at http://127.0.0.1:", "The tour of the samples does not apply to your policies.",
		"# 200 live: the row GET /animals\n", "# 401 UNAUTHORIZED missing: ", "# 403 FORBIDDEN missing_scope: ",
		"# 200 live: the public row GET /\n", "# 200 live: the row POST /animals/{animal}:feed\n")
	if n := paste(t, text); n != 6 || strings.Contains(text, "sk_live_") || strings.Contains(text, "VelaFlows") {
		t.Errorf("%d requests in\n%s", n, text)
	}
	placesWork(t, text)
	wantLines(t, tourOf(t, d), "The tour of the samples does not apply to your policies.", "ok zoo HEAD /photos/x/x ", "ok zoo GET /me zoo: user ",
		"ok zoo POST /zoo.v1.Animals/List ", "403 FORBIDDEN no_route", "12 requests, every answer as your tables say\n")
	var all bytes.Buffer
	if err := d.Print(&all); err != nil {
		t.Fatal(err)
	}
	wantLines(t, all.String(), "zoo: every scope  ", "curl -I http://", "token create --prefix zoo_ --workspace acme --name mine --scope animals:feed\n")

	// In a second terminal, the command of the full output creates a key for the user's API.
	export := regexp.MustCompile(`(?m)^export .*`).FindString(text)
	create := regexp.MustCompile(`token create .*`).FindString(all.String())
	out, err := exec.CommandContext(t.Context(), "sh", "-e", "-c", export+"\n"+keywicket+" "+create).CombinedOutput()
	key := regexp.MustCompile(`zoo_\w{38}`).Find(out)
	if err != nil || key == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := harness.Fetch(t, http.DefaultClient, "POST", d.URLs["zoo"]+"/animals/7:feed", "", "Authorization", "Bearer "+string(key)); r.Status != 200 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// The user has changed a sample API: the requests for new and changed rows come first, and documented requests still work.
func TestDemoWithEditedSamples(t *testing.T) {
	setTempDir(t)
	dir := rego.CopyBuiltin(t)
	if policies, _, err := own.Load(t.Context(), "", dir); policies != nil || err != nil {
		t.Fatalf("an unchanged copy is not the built-in policy: %v", err)
	}
	table := filepath.Join(dir, "apis", "velaflows", "data.yaml")
	harness.AppendFile(t, table, "\n  - {method: GET, path: \"/api/v1/inbox/drafts/{draft}\", scopes: [inbox:read]}\n")
	d := startOwn(t, "", dir)
	text := summary(t, d)
	fits(t, text)
	t.Logf("\n%s", text)
	wantLines(t, text, "velaflows at "+d.VelaFlows+", velocity at "+d.Velocity, "The tour of the samples does not apply to your policies.",
		"# 200 live: the row GET /api/v1/inbox/drafts/{draft}\n", d.Velocity+"/api/issues")
	if n := paste(t, text); n != 6 {
		t.Errorf("%d requests", n)
	}
	tour := tourOf(t, d)
	wantLines(t, tour, "requests, every answer as your tables say", "ok velaflows GET /api/v1/crm/leads velaflows: every scope 64f1a2b3c4d5e6f7a8b9c0d1 ", "ok velocity GET /api/user velocity: user ")
	r := harness.Fetch(t, http.DefaultClient, "GET", d.VelaFlows+"/api/v1/inbox/conversations", "", "Authorization", "Bearer sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0",
		"X-Workspace-Id", "64f1a2b3c4d5e6f7a8b9c0d1")
	if r.Status != 200 {
		t.Errorf("a documented request: %d %s", r.Status, r.Body)
	}
	stepsWork(t, d) // OAuth
}

const ownConfiguration = `
apis:
  shop:
    hosts: ["*.shop.example"]
    workspace: {header: tenant, by: id, required: true}
    credentials:
      - {kind: workspace_token, prefix: shop_}
    denials:
      - {code: PAYMENT_REQUIRED, reason: closed, status: 402, message: "Closed."}
    upstream_headers: [plan-of-the-customer, seats-of-the-customer]
  zoo:
    workspace: {header: x-zoo, by: slug}
    credentials:
      - {kind: personal_key, prefix: zoou_}
  it-s:
    workspace: {header: x-its, by: slug}
    credentials:
      - {kind: workspace_key, prefix: shop_}
allowed_headers: [x-region]
`

const ownRules = `package keywicket

deny contains {"code": "PAYMENT_REQUIRED", "reason": "closed"} if {
	input.request.segments[0] == "till"
	not input.request.headers["x-region"]
}

headers["plan-of-the-customer"] := "pro" if input.api == "shop"
`

// The user's configuration has other APIs, with their own headers, hosts and denials. Rules other than the table decide some requests.
func TestDemoWithAConfigurationOfOnesOwn(t *testing.T) {
	setTempDir(t)
	dir := rulesOnly(t)
	table := func(name, routes string) {
		harness.AppendFile(t, filepath.Join(dir, "apis", name, "data.yaml"),
			"scopes: {workspace: {\"a:read\": Read, \"a:write\": Write}}\noverrides: {}\nroles: {reader: [\"a:read\"], writer: [\"a:read\", \"a:write\"]}\nroutes:\n"+routes)
	}
	table("shop", "  - {method: GET, path: /goods, scopes: [\"a:read\"]}\n  - {method: PUT, path: /till, scopes: [\"a:write\"]}\n")
	table("zoo", "  - {method: GET, path: /animals, scopes: [\"a:write\"]}\n")
	table("it-s", "  - {method: GET, path: \"/it's/$HOME/(x)\", scopes: [\"a:write\"]}\n")
	harness.AppendFile(t, filepath.Join(dir, "keywicket", "own.rego"), ownRules)
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	harness.AppendFile(t, config, ownConfiguration)
	d := startOwn(t, config, dir)
	text := summary(t, d)
	t.Logf("\n%s", text)
	if n := paste(t, text); n != 6 {
		t.Errorf("%d requests in\n%s", n, text)
	}
	wantLines(t, text, "KEYWICKET_CONFIG="+config+" KEYWICKET_POLICIES_DIR="+dir)
	tour := tourOf(t, d)
	wantLines(t, tour, "rule shop PUT /till shop: every scope 64f1a2b3c4d5e6f7a8b9c0d1 200 live 402 PAYMENT_REQUIRED closed the row PUT /till\n",
		"ok zoo GET /animals zoo: user acme 200 live 200 live ", "ok it-s GET /it%27s/$HOME/%28x%29 it-s: every scope 200 live 200 live ",
		" 1 answers not as your tables say: other rules decided\n")
	key := regexp.MustCompile(`shop_every-scope-shop[\w-]*`).FindString(text)
	out, err := exec.CommandContext(t.Context(), "curl", "-s", "-X", "PUT", d.URLs["shop"]+"/till", "-H", "Authorization: Bearer "+key,
		"-H", "Tenant: 64f1a2b3c4d5e6f7a8b9c0d1", "-H", "Host: a.shop.example", "-H", "X-Region: eu",
		"-H", "Plan-Of-The-Customer: forged", "-H", "Seats-Of-The-Customer: forged").Output()
	if err != nil || !bytes.Contains(out, []byte(`"plan-of-the-customer":["pro"]`)) || bytes.Contains(out, []byte("forged")) {
		t.Errorf("%v: %s", err, out)
	}
}

const noDecision = `package keywicket

deny contains {"code": "FORBIDDEN", "reason": "missing_scope"} if {
	input.request.segments[0] == "me"
	net.cidr_contains(input.source.certificate, "10.0.0.1")
}
`

// A policy that decides nothing is an error of the tour.
func TestTourWithoutADecision(t *testing.T) {
	setTempDir(t)
	dir := rulesOnly(t)
	harness.AppendFile(t, filepath.Join(dir, "apis", "zoo", "data.yaml"), zoo)
	harness.AppendFile(t, filepath.Join(dir, "keywicket", "own.rego"), noDecision)
	d := startOwn(t, "", dir)
	var out bytes.Buffer
	err := d.Tour(t.Context(), &out)
	if err == nil || !strings.Contains(err.Error(), "1 of 12 requests got no decision: run again with --logs") {
		t.Errorf("%v\n%s", err, &out)
	}
	if found := slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool { return strings.Contains(line, "DIFFERS") && strings.Contains(line, "503") }); !found {
		t.Errorf("no 503 in\n%s", &out)
	}
}
