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
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The header of the file says that the second listener can be removed.
	first, rest, found := strings.Cut(string(text), "  - name: velocity\n")
	_, clusters, foundClusters := strings.Cut(rest, "\n  clusters:\n")
	oneAPI := filepath.Join(t.TempDir(), "one-api.yaml")
	if err := os.WriteFile(oneAPI, []byte(first+"\n  clusters:\n"+clusters), 0o600); err != nil || !found || !foundClusters {
		t.Fatal(err, found, foundClusters)
	}
	for _, file := range []string{"envoy.yaml", rendered, oneAPI} {
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
// copies are equal. Both listeners accept the headers of a browser with many cookies (row 15).
func TestListenersDifferOnlyInNameAndRoutes(t *testing.T) {
	managers := managers(t)
	for _, manager := range managers {
		limits := manager["common_http_protocol_options"].(map[string]any)
		if kb, n := manager["max_request_headers_kb"], limits["max_headers_count"]; kb != 64 || n != 256 {
			t.Errorf("%s accepts %v KiB and %v headers", manager["stat_prefix"], kb, n)
		}
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
