package restart

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

type object = map[string]any

// editConfig returns Envoy's configuration after the change.
func editConfig(t *testing.T, config []byte, change func(document object)) []byte {
	t.Helper()
	var document object
	if err := yaml.Unmarshal(config, &document); err != nil {
		t.Fatal(err)
	}
	change(document)
	text, err := yaml.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// removeRetries removes the retries of checks, so that Envoy sends each check once to one sidecar.
func removeRetries(document object) {
	removed := 0
	for _, listener := range document["static_resources"].(object)["listeners"].([]any) {
		chain := listener.(object)["filter_chains"].([]any)[0].(object)
		manager := chain["filters"].([]any)[0].(object)["typed_config"].(object)
		for _, filter := range manager["http_filters"].([]any) {
			service, ok := filter.(object)["typed_config"].(object)["grpc_service"].(object)
			if _, retries := service["retry_policy"]; ok && retries {
				delete(service, "retry_policy")
				removed++
			}
		}
	}
	if removed != 2 { // one for each API
		panic(fmt.Sprintf("deploy/envoy has retries in %d places, not 2", removed))
	}
}

// controlPlane delivers the endpoints of the cluster keywicket as a file. It moves the file into a folder that Envoy
// watches.
type controlPlane struct{ dir string }

func (p controlPlane) watchedFolder() string { return filepath.Join(p.dir, "watched") }

func (p controlPlane) file() string { return filepath.Join(p.watchedFolder(), "endpoints.yaml") }

// configureEnvoy changes the configuration so that Envoy gets the endpoints from the control plane and sends no health checks.
func (p controlPlane) configureEnvoy(document object) {
	document["node"] = object{"id": "envoy", "cluster": "envoy"} // without a node, Envoy refuses every delivery
	for _, c := range document["static_resources"].(object)["clusters"].([]any) {
		cluster := c.(object)
		if cluster["name"] != "keywicket" {
			continue
		}
		delete(cluster, "load_assignment")
		delete(cluster, "health_checks")
		cluster["type"] = "EDS"
		cluster["eds_cluster_config"] = object{"eds_config": object{
			"resource_api_version": "V3",
			"path_config_source":   object{"path": p.file(), "watched_directory": object{"path": p.watchedFolder()}},
		}}
	}
}

// deliver replaces the endpoints that Envoy uses.
func (p controlPlane) deliver(t *testing.T, addresses ...string) {
	t.Helper()
	var endpoints []any
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		endpoints = append(endpoints, object{"endpoint": object{"address": object{"socket_address": object{
			"address": host, "port_value": port,
		}}}})
	}
	text, err := yaml.Marshal(object{"resources": []any{object{
		"@type":        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
		"cluster_name": "keywicket",
		"endpoints":    []any{object{"lb_endpoints": endpoints}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.watchedFolder(), 0o755); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(p.dir, "next.yaml")
	if err := os.WriteFile(next, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.file()); err != nil {
		t.Fatal(err)
	}
}

// endpointsOf returns the endpoints of the cluster keywicket.
func endpointsOf(t *testing.T, config []byte) []string {
	t.Helper()
	addresses, err := bootstrap.Read(config)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(addresses.Clusters["keywicket"], ",")
}
