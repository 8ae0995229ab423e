package table

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/policies/fault"
)

// Preset is a named choice of scopes for a new token, on the page and in the API that create tokens. It gives no right: the
// creator of the token must be allowed to give each of the scopes.
type Preset struct {
	// Name is the text that users see, and is unique in the table.
	Name string `yaml:"name" json:"name"`
	// Scopes are scopes of the level workspace, at least one.
	Scopes []string `yaml:"scopes" json:"scopes"`
}

// checkPresets finds invalid presets. For each error, it calls the parameter `refuse` with the line of the error. The parameter
// `items` has the YAML nodes of the presets, because only the nodes have line numbers.
func (t Table) checkPresets(items []*yaml.Node, refuse func(line int, err error)) {
	names := make(map[string]int) // → line
	for i, item := range items {
		p, line := t.Presets[i], item.Line
		other, twice := names[p.Name]
		names[p.Name] = line
		switch {
		case strings.TrimSpace(p.Name) == "":
			refuse(line, errors.New("presets: the preset has no name: add the key \"name\""))
		case twice:
			refuse(line, fmt.Errorf("presets: %q has the same name as the preset in line %d: rename one of them", p.Name, other))
		case len(p.Scopes) == 0:
			refuse(line, fmt.Errorf("presets: %q has no scopes: list at least one", p.Name))
		}
		for _, scope := range p.Scopes {
			err := t.checkKnown([]string{scope})
			if level, _ := t.Scope(scope); err == nil && level != LevelWorkspace {
				err = fmt.Errorf("the scope %s has the level %s, but presets are for the level workspace", scope, level)
			}
			if err != nil {
				refuse(fault.LineOf(&yaml.Node{Content: []*yaml.Node{item}}, "scopes", scope), fmt.Errorf("presets: %s: %w", p.Name, err))
			}
		}
	}
}
