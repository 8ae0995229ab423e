package policies

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/policies/route"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
)

// documentedPolicy adds the examples of docs/policies.md to a copy of the shipped rules. It appends each block to the file that
// the block's first line names. It returns the policy folder, and the text of the example of keywicket.yaml.
func documentedPolicy(t *testing.T) (dir, config string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "policies.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir = rego.CopyRules(t)
	blocks := regexp.MustCompile("(?ms)^```(?:yaml|rego)\n# (\\S+\\.(?:yaml|rego))\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 8 {
		t.Fatalf("docs/policies.md has %d examples of files", len(blocks))
	}
	for _, block := range blocks {
		if block[1] == "keywicket.yaml" {
			config += block[2]
			continue
		}
		harness.AppendFile(t, filepath.Join(dir, filepath.FromSlash(block[1])), block[2])
	}
	return dir, config
}

func TestDocumentedPolicyPassesItsTests(t *testing.T) {
	t.Parallel()
	dir, _ := documentedPolicy(t)
	if err := rego.RunTests(t, dir); err != nil {
		t.Error(err)
	}
	// The loop disables one denial at a time. A test of the policy must then fail.
	rules := 0
	for _, file := range []string{"payment", "people", "places"} {
		name := filepath.Join(dir, "keywicket", file+".rego")
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(text), "deny contains")
		for i := 1; i < len(parts); i++ {
			rules++
			without := strings.Join(parts[:i], "deny contains") + "other contains" + strings.Join(parts[i:], "deny contains")
			if err := os.WriteFile(name, []byte(without), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := rego.RunTests(t, dir); err == nil {
				t.Errorf("without denial %d of %s.rego, no test fails", i, file)
			}
		}
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if rules != 9 {
		t.Errorf("the examples have %d denials", rules)
	}
}

// The test sends requests through Envoy to the example rules of docs/policies.md. For each rule, one request is allowed and one
// is denied.
func TestDocumentedRules(t *testing.T) {
	t.Parallel()
	dir, text := documentedPolicy(t)
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	harness.AppendFile(t, config, fmt.Sprintf("policies: {dir: %q}\n%s", dir, text))
	pki := newAuthority(t)
	s := harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte {
			// Both listeners now serve the API zoo. VelaFlows' listener uses mutual TLS.
			envoy = harness.Replace(t, envoy, "{api: velocity}", "{api: zoo}", 1)
			envoy = harness.Replace(t, envoy, "{api: velaflows}", "{api: zoo}", 1)
			envoy = harness.Replace(t, envoy, "exact: x-workspace-slug", "exact: x-zoo", 1)
			envoy = permitPlanHeader(t, envoy)
			before, after, _ := bytes.Cut(envoy, []byte("- name: velocity\n"))
			before = harness.Replace(t, before, "        - filters:\n", "        - transport_socket: "+pki.transportSocket(t)+"\n          filters:\n", 1)
			return append(append(before, "- name: velocity\n"...), after...)
		},
	})
	plain := &http.Client{Timeout: 30 * time.Second}
	defer plain.CloseIdleConnections()
	mutual := strings.Replace(s.VelaFlows, "http:", "https:", 1)
	workspaces := 0
	workspace := func(attributes string) string {
		workspaces++
		slug := fmt.Sprintf("zoo-%d", workspaces)
		harness.Keywicket[registry.Workspace](t, s, "workspace", "create", "--slug", slug, "--name", "Zoo", "--attributes", attributes)
		return slug
	}
	token := func(workspace, attributes string) string {
		return harness.IssueToken(t, s, "zoo_", workspace, "animals:read,animals:feed", "--attributes", attributes, "--config", config).Token
	}
	personal := func(user, attributes string) []string {
		harness.Keywicket[registry.User](t, s, "user", "create", "--id", user, "--email", user+"@zoo.example", "--attributes", attributes)
		harness.Keywicket[any](t, s, "member", "set", "--workspace", "zoo-1", "--user", user, "--role", "keeper", "--config", config)
		key := harness.Keywicket[harness.Token](t, s, "token", "create", "--prefix", "zoou_", "--user", user, "--name", "t", "--scope", "animals:read", "--config", config)
		return []string{"Authorization", "Bearer " + key.Token, "X-Zoo", "zoo-1"}
	}
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }

	pro := workspace(`{"plan":"pro"}`)
	free := workspace(`{"plan":"free"}`)
	overdue := workspace(`{"plan":"pro","overdue":true}`)
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	limited := workspace(`{"limited_until":"` + later + `"}`)
	expiredLimit := workspace(`{"limited_until":"2026-01-01T00:00:00Z"}`)
	proHeaders, freeHeaders := bearer(token(pro, `{}`)), bearer(token(free, `{}`))
	readOnly := bearer(token(pro, `{"read_only":true}`))
	all := bearer(harness.IssueToken(t, s, "zoo_", pro, "animals:*", "--config", config).Token)
	reader := bearer(harness.IssueToken(t, s, "zoo_", pro, "animals:read", "--config", config).Token)
	listed := bearer(token(pro, `{"cages":["7","8"]}`))
	for rule, c := range map[string]struct {
		allowedRequest, deniedRequest [2]string // a method and an address
		allowedHeaders, deniedHeaders []string  // names and values in turn
		allowedClient, deniedClient   *http.Client
		status                        int
		reason                        string
	}{
		"an own code":           {[2]string{"GET", "/animals"}, [2]string{"GET", "/animals"}, proHeaders, bearer(token(overdue, `{}`)), plain, plain, 402, "invoice_overdue"},
		"Retry-After":           {[2]string{"GET", "/animals"}, [2]string{"GET", "/animals"}, bearer(token(expiredLimit, `{}`)), bearer(token(limited, `{}`)), plain, plain, 429, "quota"},
		"a plan":                {[2]string{"GET", "/animals/7/photos/2026/1.jpeg"}, [2]string{"GET", "/animals/7/photos/2026/1.jpeg"}, proHeaders, freeHeaders, plain, plain, 402, "plan_too_small"},
		"a token's attribute":   {[2]string{"HEAD", "/animals/7"}, [2]string{"POST", "/animals/7:feed"}, readOnly, readOnly, plain, plain, 403, "read_only_token"},
		"a user's attribute":    {[2]string{"GET", "/vets/7"}, [2]string{"GET", "/vets/7"}, personal("ada", `{"department":"vets"}`), personal("bob", `{"department":"kitchen"}`), plain, plain, 403, "other_department"},
		"a list of resources":   {[2]string{"PUT", "/cages/7"}, [2]string{"PUT", "/cages/9"}, listed, listed, plain, plain, 403, "other_cage"},
		"a network":             {[2]string{"GET", "/office"}, [2]string{"GET", "/archive"}, proHeaders, proHeaders, plain, plain, 403, "outside_network"},
		"a workload":            {[2]string{"GET", mutual + "/surgery"}, [2]string{"GET", mutual + "/surgery"}, proHeaders, proHeaders, pki.client(t, "vet"), pki.client(t, "till"), 403, "other_workload"},
		"no workload":           {[2]string{"GET", mutual + "/surgery"}, [2]string{"GET", "/surgery"}, proHeaders, proHeaders, pki.client(t, "vet"), plain, 403, "other_workload"},
		"opening hours":         {[2]string{"GET", "/shop"}, [2]string{"GET", "/night"}, proHeaders, proHeaders, plain, plain, 403, "outside_hours"},
		"a scope that implies":  {[2]string{"GET", "/animals/7.json"}, [2]string{"GET", "/me"}, all, all, plain, plain, 403, "missing_scope"},
		"a method of a service": {[2]string{"POST", "/zoo.v1.Animals/Feed"}, [2]string{"POST", "/zoo.v1.Animals/Feed"}, proHeaders, reader, plain, plain, 403, "missing_scope"},
	} {
		address := func(target string) string {
			if strings.HasPrefix(target, "/") {
				return s.Velocity + target
			}
			return target
		}
		if r := harness.Fetch(t, c.allowedClient, c.allowedRequest[0], address(c.allowedRequest[1]), "", c.allowedHeaders...); r.Status != http.StatusOK {
			t.Errorf("%s: %d %s", rule, r.Status, r.Body)
		}
		r := harness.Fetch(t, c.deniedClient, c.deniedRequest[0], address(c.deniedRequest[1]), "", c.deniedHeaders...)
		if r.Status != c.status || denialOf(t, r).Reason != c.reason {
			t.Errorf("%s: %d %s, not %d %s", rule, r.Status, r.Body, c.status, c.reason)
		}
		if seconds, _ := strconv.Atoi(r.Header.Get("Retry-After")); (c.status == 429) != (seconds > 3000 && seconds <= 3600) {
			t.Errorf("%s: Retry-After is %d", rule, seconds)
		}
	}

	// The policy sets the header x-plan for the upstream. A client cannot forge this header.
	if got := planHeader(t, harness.Get(t, plain, s.Velocity+"/animals", append(proHeaders, "X-Plan", "enterprise")...)); got != "pro" {
		t.Errorf("the upstream saw the plan %q", got)
	}
	if got := planHeader(t, harness.Get(t, plain, s.Velocity+"/animals", append(bearer(token(expiredLimit, `{}`)), "X-Plan", "enterprise")...)); got != "" {
		t.Errorf("the upstream saw the plan %q, which the client sent", got)
	}
	// A change of the plan is effective when the command returns.
	harness.Keywicket[any](t, s, "workspace", "set", free, "--attributes", `{"plan":"pro"}`, "--wait")
	if r := harness.Get(t, plain, s.Velocity+"/animals/7/photos/2026/1.jpeg", freeHeaders...); r.Status != http.StatusOK {
		t.Errorf("after the change of the plan: %d %s", r.Status, r.Body)
	}
}

// docs/policies.md lists forms of OpenAPI paths, with the form of a row for each. The forms of rows are accepted. The OpenAPI
// forms that need another form in a row are refused.
func TestDocumentedForms(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "policies.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "### From OpenAPI\n")
	section, _, _ = strings.Cut(section, "\n## ")
	quoted := regexp.MustCompile("`(/[^`]*)`")
	good, bad := 0, 0
	for _, line := range strings.Split(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		ours, theirs := quoted.FindAllStringSubmatch(cells[2], -1), quoted.FindAllStringSubmatch(cells[1], -1)
		same := strings.TrimSpace(cells[2]) == "the same"
		if same {
			ours, theirs = theirs, nil
		}
		for _, form := range ours {
			if _, err := route.Parse(form[1]); err != nil {
				t.Errorf("the row form %s is refused: %v", form[1], err)
			}
			good++
		}
		if strings.Contains(cells[1], "`/a/") || strings.Contains(cells[1], "`/x") || strings.Contains(cells[1], "é") {
			for _, form := range theirs {
				if _, err := route.Parse(form[1]); err == nil {
					t.Errorf("%s is not refused", form[1])
				}
				bad++
			}
		}
	}
	if good < 15 || bad < 6 {
		t.Errorf("the table has %d accepted forms and %d refused forms", good, bad)
	}
}
