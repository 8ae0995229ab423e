package bootstrap_test

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

var otherAddresses = bootstrap.Addresses{
	Admin:     "127.0.0.1:19901",
	Listeners: map[string]string{"velaflows": "0.0.0.0:18000", "velocity": "[::1]:18001"},
	Clusters: map[string]string{
		"keywicket": "127.0.0.2:19001,127.0.0.3:19001,[::1]:19001", "upstream_live": "127.0.0.1:18080", "upstream_sandbox": "127.0.0.1:18081",
		"issuer": "127.0.0.1:19003", "console": "127.0.0.1:19004",
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

func TestRenderReplacesOnlyAddresses(t *testing.T) {
	file, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decode(t, render(t, bootstrap.Addresses{})), decode(t, file)) {
		t.Error("without addresses, Render changes the configuration")
	}
	fileAddresses, err := bootstrap.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := (bootstrap.Addresses{
		Admin:     "127.0.0.1:9901",
		Listeners: map[string]string{"velaflows": "127.0.0.1:8000", "velocity": "127.0.0.1:8001"},
		Clusters: map[string]string{
			"keywicket": "127.0.0.1:9001", "upstream_live": "127.0.0.1:8080", "upstream_sandbox": "127.0.0.1:8081",
			"issuer": "127.0.0.1:9003", "console": "127.0.0.1:9004",
		},
	}); !reflect.DeepEqual(fileAddresses, want) {
		t.Errorf("the file's own addresses: %+v", fileAddresses)
	}
	rendered := render(t, otherAddresses)
	if got, err := bootstrap.Read(rendered); err != nil || !reflect.DeepEqual(got, otherAddresses) {
		t.Errorf("got %+v, %v", got, err)
	}
	if !bytes.Contains(rendered, []byte("# Row 3:")) {
		t.Error("the comments are gone")
	}
	if back := render(t, fileAddresses); !reflect.DeepEqual(decode(t, back), decode(t, file)) {
		t.Error("with the file's own addresses, Render changes the configuration")
	}
}

func TestRenderRefusesInvalidAddresses(t *testing.T) {
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
		t.Error("Read accepts an empty configuration")
	}
}
