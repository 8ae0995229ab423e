package bootstrap_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// With the file's own APIs, RenderAPIs changes only the limit of expressions. It adds an API as a copy of the listener velaflows, and
// Envoy accepts the result with more headers than its default limit of expressions permits.
func TestRenderAPIs(t *testing.T) {
	file, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	same, err := bootstrap.RenderAPIs(bootstrap.Addresses{}, []bootstrap.API{{Name: "velaflows"}, {Name: "velocity"}})
	if err != nil {
		t.Fatal(err)
	}
	got := decode(t, same)
	delete(got, "layered_runtime")
	if !reflect.DeepEqual(got, decode(t, file)) {
		t.Error("the configuration of the file's APIs has changed")
	}
	headers := []string{"tenant", "plan-of-the-customer", "seats-of-the-customer", "region-of-the-customer"}
	config, err := bootstrap.RenderAPIs(bootstrap.Addresses{Listeners: map[string]string{"zoo": "127.0.0.1:18000"}},
		[]bootstrap.API{{Name: "zoo", CheckHeaders: headers, UpstreamHeaders: headers}})
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := bootstrap.Read(config)
	if err != nil || !reflect.DeepEqual(addresses.Listeners, map[string]string{"zoo": "127.0.0.1:18000"}) {
		t.Errorf("the listeners are %v, %v", addresses.Listeners, err)
	}
	text := string(config)
	for _, want := range []string{"api: zoo", "exact: tenant", "|tenant|plan-of-the-customer|", "merge_slashes: true", "cluster: upstream_sandbox", "cluster: console"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "velaflows") {
		t.Errorf("the name of the copied API is in\n%s", text)
	}
	binary, err := envoyproxy.Find()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(name, config, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--log-level", "warning", "-c", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPaths(t *testing.T) {
	paths, err := bootstrap.Paths("issuer")
	if err != nil || !slices.Contains(paths, "/oauth/consent") || !slices.Contains(paths, "/api/oauth/token") ||
		!slices.Contains(paths, "/.well-known/oauth-protected-resource") || slices.Contains(paths, "/") || slices.Contains(paths, "") {
		t.Errorf("%q, %v", paths, err)
	}
	paths, err = bootstrap.Paths("console")
	if err != nil || !slices.Equal(paths, []string{"/settings", "/api/keywicket/v1"}) {
		t.Errorf("%q, %v", paths, err)
	}
}
