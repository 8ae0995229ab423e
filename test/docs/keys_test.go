package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/configuration.md explains every key of defaults.yaml.
func TestEveryKeyIsDocumented(t *testing.T) {
	defaults, err := os.ReadFile("../../service/config/defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	section, keys := "", 0
	key := regexp.MustCompile(`^( *)([a-z_]+):`)
	for _, line := range strings.Split(string(defaults), "\n") {
		m := key.FindStringSubmatch(line)
		if m == nil || section == "apis" {
			continue
		}
		name := m[2]
		if m[1] == "" {
			section = name
		} else {
			name = section + "." + name
		}
		if strings.HasSuffix(strings.TrimSpace(line), ":") { // the line of a group, not of a key
			continue
		}
		keys++
		if !strings.Contains(string(document), "| `"+name+"` |") {
			t.Errorf("docs/configuration.md does not explain %s", name)
		}
	}
	if keys < 10 {
		t.Errorf("only %d keys were found", keys)
	}
}
