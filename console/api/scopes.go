package api

import (
	"cmp"
	"net/http"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/table"
)

// scopeChoice is what a caller may give to a token.
type scopeChoice struct {
	Scopes         []grantableScope `json:"scopes"`
	Presets        []preset         `json:"presets"`
	Prefixes       []prefix         `json:"prefixes"`
	MaxLifetime    *int64           `json:"max_lifetime"` // seconds; nil: unlimited
	ExpiryRequired bool             `json:"expiry_required"`
}

type grantableScope struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Override    bool   `json:"override"`
}

type preset struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
}

type prefix struct {
	Prefix      string            `json:"prefix"`
	Environment authz.Environment `json:"environment"`
}

func (t tokens) scopes(_ *http.Request, c settings.Caller) (answer, error) {
	if err := c.MayManage(t.owner); err != nil {
		return answer{}, err
	}
	formats, rules := c.API.FormatsOf(t.owner), c.API.Rules
	kind := formats[0].Kind
	choice := scopeChoice{Scopes: []grantableScope{}, Presets: []preset{}, Prefixes: []prefix{}, ExpiryRequired: rules.Limits.ExpiryRequired}
	for _, name := range rules.Grantable(c.Maker, kind) {
		level, _ := rules.Table.Scope(name)
		choice.Scopes = append(choice.Scopes, grantableScope{
			Name: name, Description: rules.Table.Scopes[level][name],
			Override: rules.Table.IsOverride(name, table.LevelWorkspace) || rules.Table.IsOverride(name, table.LevelUser),
		})
	}
	for _, p := range rules.Presets(c.Maker, kind) {
		choice.Presets = append(choice.Presets, preset(p))
	}
	for _, f := range formats {
		choice.Prefixes = append(choice.Prefixes, prefix{f.Prefix, cmp.Or(f.Environment, authz.Live)})
	}
	if longest := rules.Limits.MaxLifetime; longest > 0 {
		choice.MaxLifetime = new(int64(longest / time.Second))
		choice.ExpiryRequired = true
	}
	return answer{body: choice}, nil
}
