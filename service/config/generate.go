package config

import (
	"fmt"
	"path/filepath"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
)

// Generate returns a configuration whose APIs are those of the policies' tables, and the text of a configuration file with the same
// APIs and policies. An API with a default section has this section. Any other API has a workspace header and keys with its name as the
// prefix.
func Generate(p policies.Config) (Config, []byte, error) {
	var builtin struct {
		APIs map[string]any `yaml:"apis"`
	}
	if err := yaml.Unmarshal(defaults, &builtin); err != nil {
		return Config{}, nil, fmt.Errorf("defaults.yaml: %w", err)
	}
	c := Config{Policies: p}
	tables, err := c.tables()
	if err != nil {
		return c, nil, PoliciesError{p.Dir, err}
	}
	apis := make(map[string]any, len(tables))
	for name, t := range tables {
		apis[name] = builtin.APIs[name]
		if apis[name] == nil {
			apis[name] = section(name, t)
		}
	}
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return c, nil, fmt.Errorf("find the folder of the policies: %w", err)
	}
	text, err := yaml.Marshal(map[string]any{"policies": map[string]string{"dir": dir}, "apis": apis})
	if err == nil {
		c, err = parse("the generated configuration", text, nil, func(c *Config) { c.Policies = p })
	}
	return c, text, err
}

var noPrefix = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// section returns the section of an API without a default section. The API has keys of users only if it has scopes for users.
func section(name string, t table.Table) any {
	prefix := noPrefix.ReplaceAllString(name, "-")
	formats := []map[string]any{{"kind": authz.KindWorkspaceKey, "prefix": prefix + "_"}}
	if len(t.Scopes[table.LevelUser]) > 0 {
		formats = append(formats, map[string]any{"kind": authz.KindPersonalKey, "prefix": prefix + "u_"})
	}
	return map[string]any{"workspace": map[string]any{"header": "x-workspace-slug", "by": authz.BySlug}, "credentials": formats}
}
