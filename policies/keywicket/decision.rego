# METADATA
# title: keywicket
# description: |
#   Decides one request: allow, or deny with a code and a reason. The input and the decision are described in
#   docs/policies.md. The first line of `decision` that holds is the answer, so the order below is the product's:
#   public route, credential, workspace, scope, route.
package keywicket

# METADATA
# description: The answer to the request. Whatever no line covers is denied by the last one.
# entrypoint: true
decision := allowed if {
	public
} else := denied("UNAUTHORIZED", input.denial) if {
	input.denial != null
} else := denied("WORKSPACE_ACCESS_DENIED", "workspace_mismatch") if {
	input.workspace.requested == true
	not input.workspace.granted == true
} else := denied("WORKSPACE_ACCESS_DENIED", "workspace_required") if {
	not input.workspace.granted == true
	workspace_needed
} else := allowed if {
	permitted
	nothing_denies
} else := denied_by_a_rule if {
	permitted
} else := denied("FORBIDDEN", "missing_scope") if {
	route
} else := denied("FORBIDDEN", "no_route")

# METADATA
# description: The route is open to everybody, whatever credential or workspace the request has.
public if route.public == true

# METADATA
# description: Kinds of credential that belong to one workspace, and act in no other.
workspace_kinds := {"workspace_token", "workspace_key"}

# METADATA
# description: Kinds of credential that act for a user, in every workspace that the user is a member of.
user_kinds := {"personal_key", "oauth_token", "session"}

# METADATA
# description: The request needs a workspace.
workspace_needed if input.principal.kind in workspace_kinds

workspace_needed if route.level == "workspace"

# METADATA
# description: |
#   The principal may do what the route is for. A workspace's credential needs the scopes of a workspace-level route, and
#   never opens a user-level one. Each rule tests the scopes itself: a call of `have_one_of_each` takes OPA a sixth of a decision's time.
permitted if {
	route.level == "workspace"
	input.workspace.granted == true
	input.principal.kind in workspace_kinds
	every one_of in workspace_needs {
		some scope in input.principal.scopes
		scope in one_of
	}
}

# A user's credential can do in a workspace what both its own scopes and the user's role there allow.
permitted if {
	route.level == "workspace"
	input.workspace.granted == true
	input.principal.kind in user_kinds
	input.workspace.role in roles_enough
	every one_of in user_needs {
		some scope in input.principal.scopes
		scope in one_of
	}
}

# What a user does as such, no role limits.
permitted if {
	route.level == "user"
	input.principal.kind in user_kinds
	every one_of in user_needs {
		some scope in input.principal.scopes
		scope in one_of
	}
}

# METADATA
# description: |
#   What the route needs of a workspace's credential: one scope of each set. This and the next rules depend on the route alone, and
#   the sidecar evaluates them once for each.
workspace_needs := needs(route.overrides.workspace)

# METADATA
# description: What the route needs of a user's credential.
user_needs := needs(array.concat(route.overrides.workspace, route.overrides.user)) if route.level == "workspace"

user_needs := needs(route.overrides.user) if route.level == "user"

# METADATA
# description: The roles that may use the route.
roles_enough := {role | some role, scopes in route.roles; have_one_of_each(scopes, workspace_needs)}

# METADATA
# description: The scopes have one of each set.
have_one_of_each(scopes, sets) if {
	every one_of in sets {
		some scope in scopes
		scope in one_of
	}
}

# METADATA
# description: |
#   One set of scopes for each required scope, and one for `any_of`. Every set also has the overrides. It is undefined, not
#   empty, if the route lacks `scopes` or `any_of`.
needs(overrides) := sets if {
	is_array(route.scopes)
	is_array(route.any_of)
	any_of := [holders_of(route.any_of) | count(route.any_of) > 0]
	own := array.concat([holders_of([scope]) | some scope in route.scopes], any_of)
	sets := [one_of | some scopes in own; one_of := scopes | holders_of(overrides)]
}

# METADATA
# description: These scopes, and those that imply one of them.
holders_of(some_scopes) := {scope | some scope in some_scopes} | {held |
	some held, implied in route.implies
	some scope in some_scopes
	scope in implied
}

# METADATA
# description: |
#   Other files of this package add denials to `deny`, each an object with a code and a reason that the configuration
#   declares, and `retry_after` if it has one. They only take away: what is refused without them stays refused. Of several,
#   the first one by code and reason is the answer.
denied_by_a_rule := object.union(extras, denied(code, reason)) if {
	[code, reason, extras] := min({[object.get(d, "code", null), object.get(d, "reason", null), others] |
		some d in data.keywicket.deny
		others := object.remove(d, ["code", "reason"])
	})
}

# Written such that a denial of the wrong form denies too.
nothing_denies if {
	not data.keywicket.deny
} else if {
	count(data.keywicket.deny) == 0
}

# METADATA
# description: Headers for the upstream, name → value. Other files of this package add them to `headers`.
default own_headers := {}

own_headers := data.keywicket.headers

# METADATA
# description: The decision that lets the request in.
allowed := {
	"allow": true,
	"code": null,
	"reason": null,
	"required_scopes": route.scopes,
	"any_of": route.any_of,
	"headers": own_headers,
	"route": route.name,
}

# METADATA
# description: The decision that refuses the request, for a reason under one of the codes of the API documents.
denied(code, reason) := {
	"allow": false,
	"code": code,
	"reason": reason,
	"required_scopes": object.get(addressed, "scopes", []),
	"any_of": object.get(addressed, "any_of", []),
	"route": object.get(addressed, "name", null),
}

# METADATA
# description: The route, or an empty object where there is none.
default addressed := {}

addressed := route
