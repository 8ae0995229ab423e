package bootstrap_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/envoy"
)

func TestEnvoyAcceptsTheConfiguration(t *testing.T) {
	rendered := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(rendered, render(t, otherAddresses), 0o644); err != nil {
		t.Fatal(err)
	}
	binary, err := envoyproxy.Find()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"envoy.yaml", rendered} {
		out, err := exec.Command(binary, "--mode", "validate", "--log-level", "warning", "-c", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), "[warning]") {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
}

// managers returns the settings of the listeners' HTTP connection managers.
func managers(t *testing.T) (managers []map[string]any) {
	t.Helper()
	file := decode(t, render(t, bootstrap.Addresses{}))
	for _, listener := range file["static_resources"].(map[string]any)["listeners"].([]any) {
		chain := listener.(map[string]any)["filter_chains"].([]any)[0].(map[string]any)
		managers = append(managers, chain["filters"].([]any)[0].(map[string]any)["typed_config"].(map[string]any))
	}
	return managers
}

// Envoy does not support YAML merge keys, so both listeners repeat the settings with scalar values. This test checks that the two
// copies are equal.
func TestListenersDifferOnlyInNameAndRoutes(t *testing.T) {
	managers := managers(t)
	for _, manager := range managers {
		delete(manager, "stat_prefix")
		delete(manager, "route_config")
		delete(manager["http_filters"].([]any)[1].(map[string]any)["typed_config"].(map[string]any), "clear_route_cache")
	}
	if len(managers) != 2 || !reflect.DeepEqual(managers[0], managers[1]) {
		t.Error("the listeners differ in more than name, routes and clear_route_cache")
	}
}

// The sidecar can check every request that these listeners accept. A check contains the path twice: in the headers, and in a
// separate field.
func TestLargestRequestIsChecked(t *testing.T) {
	for _, manager := range managers(t) {
		kb, ok := manager["max_request_headers_kb"].(int)
		if !ok || 2*kb<<10 >= envoy.MaxMessage {
			t.Errorf("%s accepts headers of %v KiB; a check may have %d bytes", manager["stat_prefix"], manager["max_request_headers_kb"], envoy.MaxMessage)
		}
	}
}
