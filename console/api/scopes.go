package api

import (
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
	may, err := c.Choice(t.owner)
	if err != nil {
		return answer{}, err
	}
	choice := scopeChoice{Scopes: []grantableScope{}, Presets: []preset{}, Prefixes: []prefix{}, ExpiryRequired: may.Limits.ExpiryRequired}
	for _, name := range may.Scopes {
		choice.Scopes = append(choice.Scopes, newGrantableScope(c.API.Rules.Table, name))
	}
	for _, p := range may.Presets {
		choice.Presets = append(choice.Presets, preset(p))
	}
	for _, f := range may.Formats {
		choice.Prefixes = append(choice.Prefixes, prefix{f.Prefix, f.Environment})
	}
	if longest := may.Limits.MaxLifetime; longest > 0 {
		choice.MaxLifetime = new(int64(longest / time.Second))
		choice.ExpiryRequired = true
	}
	return answer{body: choice}, nil
}

func newGrantableScope(t table.Table, name string) grantableScope {
	level, _ := t.Scope(name)
	return grantableScope{
		Name: name, Description: t.Scopes[level][name],
		Override: t.IsOverride(name, table.LevelWorkspace) || t.IsOverride(name, table.LevelUser),
	}
}
