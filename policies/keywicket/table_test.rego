# The tables of the tests of decision.rego. The tests replace data.apis with these tables, so they do not depend on the tables
# in apis/.
package keywicket_decision_test

tables := {
	# Only workspaces have credentials.
	"mail": {
		"overrides": {"workspace": ["admin:all"]},
		"routes": [
			{"method": "GET", "path": "/healthz", "public": true},
			{"method": "GET", "path": "/messages", "scopes": ["messages:read"]},
		],
	},
	# Workspaces and users have credentials.
	"tracker": {
		"overrides": {"workspace": ["workspace:admin"], "user": ["admin"]},
		"roles": {
			"owner": ["workspace:admin"],
			"admin": ["workspace:admin"],
			"member": ["issues:read", "issues:write"],
			"guest": ["issues:read"],
		},
		"routes": [
			{"method": "GET", "path": "/healthz", "public": true},
			{"method": "POST", "path": "/oauth/token", "public": true},
			{"method": "GET", "path": "/issues", "scopes": ["issues:read"]},
			{"method": "POST", "path": "/issues", "scopes": ["issues:write"]},
			{"method": "PATCH", "path": "/workspace", "scopes": ["workspace:admin"]},
			{"method": "GET", "path": "/user", "level": "user", "scopes": ["user:read"]},
			{"method": "PATCH", "path": "/user", "level": "user", "scopes": ["user:write"]},
			{"method": "PATCH", "path": "/workspaces/{workspace}", "level": "user", "scopes": ["workspaces:update"]},
		],
	},
	# Routes that require several scopes.
	"several": {
		"overrides": {"workspace": ["root"], "user": ["admin"]},
		"roles": {"keeper": ["a", "b"], "visitor": ["a"], "owner": ["root"], "nobody": []},
		"routes": [
			{"method": "GET", "path": "/both", "scopes": ["a", "b"]},
			{"method": "GET", "path": "/one-more", "scopes": ["a"], "any_of": ["b", "c"]},
			{"method": "GET", "path": "/me", "scopes": ["a", "b"], "level": "user"},
		],
	},
}
