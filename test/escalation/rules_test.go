package escalation

import (
	"slices"
)

// permissions say who may do something. prohibitions say what nobody may do. An operation is allowed if a permission applies, and no
// prohibition. The texts come from the documents of the products and of the console, not from the code.
var permissions = []sentence{
	{"owners and admins manage the tokens of their workspace", func(c caller, o operation) bool {
		return c.kind == "session" && o.level == "workspace" && c.administers(o.workspace)
	}},
	{"a personal key with full access does in a workspace what its user may do there", func(c caller, o operation) bool {
		return c.kind == "personal" && o.level == "workspace" && c.hasFullAccess(o.api, "workspace") && c.administers(o.workspace)
	}},
	{"a token of the workspace with full access manages the tokens of this workspace", func(c caller, o operation) bool {
		return c.kind == "workspace" && o.level == "workspace" && c.hasFullAccess(o.api, "workspace") && c.workspace == o.workspace
	}},
	{"users manage their own keys, apps and grants", func(c caller, o operation) bool {
		return c.kind == "session" && o.level == "user"
	}},
	{"a personal key with full access to the account manages the keys, apps and grants of its user", func(c caller, o operation) bool {
		return c.kind == "personal" && o.level == "user" && c.hasFullAccess(o.api, "user")
	}},
	{"a user lists their workspaces", func(c caller, o operation) bool {
		return o.verb == "workspaces" && (c.kind == "session" || c.user != "" && (slices.Contains(c.scopes, "workspaces:list") || c.hasFullAccess(o.api, "user")))
	}},
}

var prohibitions = []sentence{
	{"an expired or revoked credential, one of a banned user, and one of another API do nothing", func(c caller, _ operation) bool { return c.dead }},
	{"a workspace's token acts only in this workspace", func(c caller, o operation) bool { return c.workspace != "" && c.workspace != o.workspace }},
	{"an object belongs to one workspace or user", func(c caller, o operation) bool {
		return o.level == "workspace" && o.of != o.workspace || o.level == "user" && o.of != "" && o.of != c.user
	}},
	{"a token has only scopes that its kind can have", func(_ caller, o operation) bool {
		return slices.ContainsFunc(o.scopes, func(s string) bool {
			return !slices.Contains(scopesOf(o.api, "workspace"), s) && (o.level == "workspace" || !slices.Contains(scopesOf(o.api, "user"), s))
		})
	}},
	{"a workspace's token has the prefix of such tokens, and a user's key that of such keys", func(_ caller, o operation) bool {
		return o.prefix != "" && !slices.Contains(prefixesOf(o.api, o.level), o.prefix)
	}},
	{"nobody creates a token that lives longer than their own", func(c caller, o operation) bool {
		return (o.verb == "create" || o.verb == "rotate") && c.expires != nil && o.lifetime != brief
	}},
	{"a token of the sandbox manages nothing, because a token that it creates could be live", func(c caller, o operation) bool { return c.sandbox }},
	{"a token with attributes rotates no token with others", func(c caller, o operation) bool { return o.verb == "rotate" && c.attributes != "" }},
	{"in Velocity, only owners give a workspace's key full access", func(c caller, o operation) bool {
		return o.api == "velocity" && o.level == "workspace" && slices.Contains(o.scopes, "workspace:admin") && roles[c.user][o.workspace] != "owner"
	}},
}

// sentence is a rule.
type sentence struct {
	text    string
	applies func(caller, operation) bool
}

func (c caller) administers(workspace string) bool {
	return roles[c.user][workspace] == "owner" || roles[c.user][workspace] == "admin"
}

// decide returns whether the rules allow an operation, and the deciding sentence.
func decide(c caller, o operation) (bool, string) {
	applies := func(s sentence) bool { return s.applies(c, o) }
	if n := slices.IndexFunc(prohibitions, applies); n >= 0 {
		return false, prohibitions[n].text
	}
	if n := slices.IndexFunc(permissions, applies); n >= 0 {
		return true, permissions[n].text
	}
	return false, "no sentence permits it"
}

// prefixesOf returns the prefixes of the keys that a kind of owner can have.
func prefixesOf(api, level string) []string {
	switch {
	case api == "velaflows" && level == "workspace":
		return []string{"sk_live_", "sk_test_"}
	case api == "velaflows":
		return nil
	case level == "workspace":
		return []string{"vel_"}
	}
	return []string{"velu_"}
}
