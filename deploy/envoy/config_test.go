package bootstrap_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/demo/proxy"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/envoy"
)

var otherAddresses = bootstrap.Addresses{
	Admin:     "127.0.0.1:19901",
	Listeners: map[string]string{"velaflows": "0.0.0.0:18000", "velocity": "[::1]:18001"},
	Clusters: map[string]string{
		"keywicket": "127.0.0.2:19001,127.0.0.3:19001,[::1]:19001", "upstream_live": "127.0.0.1:18080", "upstream_sandbox": "127.0.0.1:18081",
		"issuer": "127.0.0.1:19003",
	},
}

func render(t *testing.T, addresses bootstrap.Addresses) []byte {
	t.Helper()
	rendered, err := bootstrap.Render(addresses)
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}

func decode(t *testing.T, config []byte) (decoded map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal(config, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestRenderReplacesAddressesAlone(t *testing.T) {
	file, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decode(t, render(t, bootstrap.Addresses{})), decode(t, file)) {
		t.Error("without addresses, Render changes the configuration")
	}
	own, err := bootstrap.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := (bootstrap.Addresses{
		Admin:     "127.0.0.1:9901",
		Listeners: map[string]string{"velaflows": "127.0.0.1:8000", "velocity": "127.0.0.1:8001"},
		Clusters: map[string]string{
			"keywicket": "127.0.0.1:9001", "upstream_live": "127.0.0.1:8080", "upstream_sandbox": "127.0.0.1:8081",
			"issuer": "127.0.0.1:9003",
		},
	}); !reflect.DeepEqual(own, want) {
		t.Errorf("the file's own addresses: %+v", own)
	}
	rendered := render(t, otherAddresses)
	if got, err := bootstrap.Read(rendered); err != nil || !reflect.DeepEqual(got, otherAddresses) {
		t.Errorf("got %+v, %v", got, err)
	}
	if !bytes.Contains(rendered, []byte("# Row 3:")) {
		t.Error("the comments are gone")
	}
	if back := render(t, own); !reflect.DeepEqual(decode(t, back), decode(t, file)) {
		t.Error("with the file's own addresses, Render changes the configuration")
	}
}

func TestRenderRefuses(t *testing.T) {
	for want, addresses := range map[string]bootstrap.Addresses{
		`there is no listener "velaflow"`:    {Listeners: map[string]string{"velaflow": "127.0.0.1:1"}},
		`there is no cluster "velaflows"`:    {Clusters: map[string]string{"velaflows": "127.0.0.1:1"}},
		"the host has to be an IP address":   {Clusters: map[string]string{"keywicket": "localhost:1"}},
		"missing port in address":            {Admin: "127.0.0.1"},
		"the port has to be a number up to ": {Listeners: map[string]string{"velocity": "127.0.0.1:65536"}},
	} {
		if _, err := bootstrap.Render(addresses); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := bootstrap.Read(nil); err == nil {
		t.Error("an empty configuration was read")
	}
}

func TestEnvoyAcceptsIt(t *testing.T) {
	rendered := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(rendered, render(t, otherAddresses), 0o644); err != nil {
		t.Fatal(err)
	}
	binary, err := proxy.Find()
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

// YAML aliases cannot share the scalar settings, so the file repeats them. This test keeps both copies equal.
func TestListenersDifferAsStated(t *testing.T) {
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

// The sidecar can check every request that these listeners accept. A check holds the request's headers, and its path a second
// time.
func TestLargestRequestIsChecked(t *testing.T) {
	for _, manager := range managers(t) {
		kb, ok := manager["max_request_headers_kb"].(int)
		if !ok || 2*kb<<10 >= envoy.MaxMessage {
			t.Errorf("%s accepts headers of %v KiB; a check may have %d bytes", manager["stat_prefix"], manager["max_request_headers_kb"], envoy.MaxMessage)
		}
	}
}
