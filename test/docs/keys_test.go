package docs

import (
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// docs/configuration.md explains every key of defaults.yaml. It explains the keys of an API once, with NAME as the API's name.
func TestEveryKeyIsDocumented(t *testing.T) {
	defaults, err := os.ReadFile("../../service/config/defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(defaults, &tree); err != nil {
		t.Fatal(err)
	}
	delete(tree, "apis") // its keys have several tables, without the path of the key
	keys := leaves("", tree)
	for key := range keys {
		if !strings.Contains(string(document), "| `"+key+"` |") {
			t.Errorf("docs/configuration.md does not explain %s", key)
		}
	}
	if len(keys) < 10 {
		t.Errorf("only %d keys were found", len(keys))
	}
}

// leaves returns the paths of the keys that have a value.
func leaves(path string, value any) map[string]bool {
	object, ok := value.(map[string]any)
	if !ok {
		return map[string]bool{path: true}
	}
	all := make(map[string]bool)
	for key, v := range object {
		if strings.HasSuffix(path, ".apis") {
			key = "NAME"
		}
		for leaf := range leaves(strings.TrimPrefix(path+"."+key, "."), v) {
			all[leaf] = true
		}
	}
	return all
}
