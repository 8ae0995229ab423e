package table_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/table"
)

// read reads the text as the table of the API zoo.
func read(text string) (table.Table, error) {
	tables, err := table.Read(folder.Folder{Files: []folder.File{{Name: "apis/zoo/data.yaml", Text: []byte(text)}}})
	return tables["zoo"], err
}

func TestInvalidPresets(t *testing.T) {
	const catalogue = "scopes: {workspace: {a: A, b: B}, user: {u: U}}\n"
	for _, c := range []struct {
		presets string
		want    string
	}{
		{"presets:\n  - {name: One, scopes: [a]}\n  - {name: Two, scopes: [a, c]}\n", `apis/zoo/data.yaml:4: presets: Two: the scope "c" is not defined under the key "scopes"`},
		{"presets:\n  - name: One\n    scopes:\n      - a\n      - c\n", `apis/zoo/data.yaml:6: presets: One: the scope "c" is not defined`},
		{"presets:\n  - {name: One, scopes: [u]}\n", "apis/zoo/data.yaml:3: presets: One: the scope u has the level user, but presets are for the level workspace"},
		{"presets:\n  - {name: One, scopes: [a]}\n  - {name: One, scopes: [b]}\n", `apis/zoo/data.yaml:4: presets: "One" has the same name as the preset in line 3: rename one of them`},
		{"presets:\n  - {name: ' ', scopes: [a]}\n", "apis/zoo/data.yaml:3: presets: the preset has no name"},
		{"presets:\n  - {name: One, scopes: []}\n", `apis/zoo/data.yaml:3: presets: "One" has no scopes`},
		{"presets:\n  - &p {name: One, scopes: [a]}\n  - *p\n", `presets: "One" has the same name`},
		{"presets:\n", "apis/zoo/data.yaml:2: this key has no value"},
	} {
		if _, err := read(catalogue + c.presets); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %s", c.presets, err, c.want)
		}
	}
}

// VelaFlows' document has three combinations of scopes under "Scope Examples".
func TestPresetsOfVelaFlows(t *testing.T) {
	files, err := folder.Read(policies.Builtin)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := table.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	want := []table.Preset{
		{Name: "Read-only dashboard", Scopes: []string{"inbox:read", "crm:read", "contacts:read", "analytics:read"}},
		{Name: "Chatbot that replies to messages", Scopes: []string{"inbox:read", "inbox:write", "channels:read", "channels:write", "ai:read"}},
		{Name: "CRM sync", Scopes: []string{"crm:read", "crm:create", "crm:update", "contacts:read", "contacts:write"}},
	}
	if got := tables["velaflows"].Presets; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if got := tables["velocity"].Presets; got != nil {
		t.Errorf("Velocity's document has no such combinations, but the table has %+v", got)
	}
}
