package config

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
)

// PoliciesError is an error in the policies. Its text has one line for each problem. Log collectors handle each line separately,
// so every line starts with the folder of the policies.
type PoliciesError struct {
	dir string
	err error
}

func (e PoliciesError) Error() string {
	prefix := fmt.Sprintf("policies (%s): ", cmp.Or(e.dir, "built in"))
	return prefix + strings.ReplaceAll(e.err.Error(), "\n", "\n"+prefix)
}

func (e PoliciesError) Unwrap() error { return e.err }

// Engine loads the policies, and checks that they match the APIs' configuration.
func (c *Config) Engine(ctx context.Context) (*policies.Engine, error) {
	engine, err := policies.Load(ctx, c.Policies)
	if err == nil {
		err = c.checkTables(engine.Tables())
	}
	if err == nil {
		err = engine.Uses().CheckDeclared(c.APIs)
	}
	if err != nil {
		return nil, PoliciesError{c.Policies.Dir, err}
	}
	return engine, nil
}

// Explainer loads the policies for explanations, and checks that they match the APIs' configuration.
func (c *Config) Explainer(ctx context.Context) (*policies.Explainer, error) {
	explainer, err := policies.LoadExplainer(ctx, c.Policies)
	if err == nil {
		err = c.checkTables(explainer.Tables())
	}
	if err == nil {
		err = explainer.Uses().CheckDeclared(c.APIs)
	}
	if err != nil {
		return nil, PoliciesError{c.Policies.Dir, err}
	}
	return explainer, nil
}

// Tables loads the tables of the policies, and checks that each API has a table. It returns the tables by the name of their API.
func (c *Config) Tables() (map[string]table.Table, error) {
	tables, err := c.tables()
	if err == nil {
		err = c.checkTables(tables)
	}
	if err != nil {
		return nil, PoliciesError{c.Policies.Dir, err}
	}
	return tables, nil
}

func (c *Config) tables() (map[string]table.Table, error) {
	files, err := c.Policies.Folder()
	if err != nil {
		return nil, err
	}
	return table.Read(files)
}

// Roles returns the names of the roles in all tables of the policies, sorted.
func (c *Config) Roles() ([]string, error) {
	tables, err := c.tables()
	if err != nil {
		return nil, PoliciesError{c.Policies.Dir, err}
	}
	roles := make(map[string]bool)
	for _, t := range tables {
		for role := range t.Roles {
			roles[role] = true
		}
	}
	return slices.Sorted(maps.Keys(roles)), nil
}

// checkTables returns an error if an API has no table, because this API would deny every request. It also returns an error if the
// sessions of an API have an unknown scope, or its token_limits an unknown role, because such a name has no effect.
func (c *Config) checkTables(tables map[string]table.Table) error {
	names := slices.Sorted(maps.Keys(c.APIs))
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := tables[name]
		return ok
	})
	if len(missing) > 0 && c.Policies.Dir == "" {
		return fmt.Errorf("apis: there is no table for %s: set policies.dir to a folder with apis/%s/data.yaml",
			strings.Join(missing, ", "), missing[0])
	}
	if len(missing) > 0 {
		return fmt.Errorf("apis: the policies have tables for %s, but none for %s: create apis/NAME/data.yaml, or write `apis` with only your own APIs into the configuration file",
			strings.Join(slices.Sorted(maps.Keys(tables)), ", "), strings.Join(missing, ", "))
	}
	for _, name := range names {
		session := c.APIs[name].Session
		for _, scope := range session.Scopes {
			if _, ok := tables[name].Scope(scope); !ok && session.Issuer != "" {
				return fmt.Errorf("apis.%s.session.scopes: %q is not a scope of %s; scopes are %s", name, scope, name,
					strings.Join(tables[name].ScopeNames(table.LevelWorkspace, table.LevelUser), ", "))
			}
		}
		for _, role := range c.APIs[name].TokenLimits.OverrideRoles {
			if _, ok := tables[name].Roles[role]; !ok {
				return fmt.Errorf("apis.%s.token_limits.override_roles: %q is not a role of %s; roles are %s", name, role, name,
					strings.Join(slices.Sorted(maps.Keys(tables[name].Roles)), ", "))
			}
		}
	}
	return nil
}
