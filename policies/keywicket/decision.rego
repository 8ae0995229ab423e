# METADATA
# title: keywicket
# description: |
#   Decides one request: allow, or deny with a code and a reason. docs/policies.md describes the input and the
#   decision. The first branch of `decision` that is true applies. The product defines the order of the branches:
#   public route, credential, workspace, scope, route.
package keywicket

# METADATA
# description: The decision on the request. The last branch denies every request that no other branch covers.
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
# description: The route is open to every request, with or without a credential and a workspace.
public if route.public == true

# METADATA
# description: Kinds of credential that belong to one workspace, and can act only there.
workspace_kinds := {"workspace_token", "workspace_key"}

# METADATA
# description: Kinds of credential that act for a user, in every workspace of which the user is a member.
user_kinds := {"personal_key", "oauth_token", "session"}

# METADATA
# description: The request needs a workspace.
workspace_needed if input.principal.kind in workspace_kinds

workspace_needed if route.level == "workspace"

# METADATA
# description: |
#   The principal may use the route. A workspace's credential needs the scopes of a workspace-level route, and can never
#   use a user-level route. Each rule repeats the scope test, because a call of a function takes a sixth of a decision's time.
permitted if {
	route.level == "workspace"
	input.workspace.granted == true
	input.principal.kind in workspace_kinds
	every scope_set in workspace_needs {
		some scope in input.principal.scopes
		scope in scope_set
	}
}

# In a workspace, both the scopes of a user's credential and the user's role must allow the route.
permitted if {
	route.level == "workspace"
	input.workspace.granted == true
	input.principal.kind in user_kinds
	input.workspace.role in sufficient_roles
	every scope_set in user_needs {
		some scope in input.principal.scopes
		scope in scope_set
	}
}

# No role limits a user on a user-level route.
permitted if {
	route.level == "user"
	input.principal.kind in user_kinds
	every scope_set in user_needs {
		some scope in input.principal.scopes
		scope in scope_set
	}
}

# METADATA
# description: |
#   Sets of scopes. A workspace's credential needs one scope of each set. This rule, user_needs and sufficient_roles depend on the
#   route alone, so the sidecar evaluates them once for each route.
workspace_needs := needs(route.overrides.workspace)

# METADATA
# description: Sets of scopes. A user's credential needs one scope of each set.
user_needs := needs(array.concat(route.overrides.workspace, route.overrides.user)) if route.level == "workspace"

user_needs := needs(route.overrides.user) if route.level == "user"

# METADATA
# description: The roles that may use the route.
sufficient_roles := {role | some role, scopes in route.roles; have_one_of_each(scopes, workspace_needs)}

# METADATA
# description: The scopes include at least one scope of each set.
have_one_of_each(scopes, sets) if {
	every scope_set in sets {
		some scope in scopes
		scope in scope_set
	}
}

# METADATA
# description: |
#   One set of scopes for each required scope, and one set for `any_of`. Every set also contains the overrides. An override is a
#   scope that satisfies every scope requirement (docs/policies.md). The result is undefined, not empty, if the route lacks
#   `scopes` or `any_of`.
needs(overrides) := sets if {
	is_array(route.scopes)
	is_array(route.any_of)
	any_of := [with_implying_scopes(route.any_of) | count(route.any_of) > 0]
	required := array.concat([with_implying_scopes([scope]) | some scope in route.scopes], any_of)
	sets := [scope_set | some scopes in required; scope_set := scopes | with_implying_scopes(overrides)]
}

# METADATA
# description: The given scopes, and the scopes that imply one of them.
with_implying_scopes(scopes) := {scope | some scope in scopes} | {implying |
	some implying, implied in route.implies
	some scope in scopes
	scope in implied
}

# METADATA
# description: |
#   Other files of this package can add denials to `deny`: objects with a code and a reason that the configuration declares, and
#   optionally `retry_after`. Such files can only deny more requests: a request that is denied without them stays denied. If
#   several denials apply, they are sorted by the text of the code, and then by the text of the reason. The decision is the first
#   denial.
denied_by_a_rule := object.union(extras, denied(code, reason)) if {
	[code, reason, extras] := min({[object.get(d, "code", null), object.get(d, "reason", null), other_keys] |
		some d in data.keywicket.deny
		other_keys := object.remove(d, ["code", "reason"])
	})
}

# This rule only counts the elements of deny, so an element without a code or a reason also denies the request.
nothing_denies if {
	not data.keywicket.deny
} else if {
	count(data.keywicket.deny) == 0
}

# METADATA
# description: Headers for the upstream, as an object from names to values. Other files of this package can add headers to the object `headers`.
default added_headers := {}

added_headers := data.keywicket.headers

# METADATA
# description: The decision that allows the request.
allowed := {
	"allow": true,
	"code": null,
	"reason": null,
	"required_scopes": route.scopes,
	"any_of": route.any_of,
	"headers": added_headers,
	"route": route.name,
}

# METADATA
# description: The decision that denies the request with this code and this reason.
denied(code, reason) := {
	"allow": false,
	"code": code,
	"reason": reason,
	"required_scopes": object.get(route_or_empty, "scopes", []),
	"any_of": object.get(route_or_empty, "any_of", []),
	"route": object.get(route_or_empty, "name", null),
}

# METADATA
# description: The route, or an empty object if the request addresses no route.
default route_or_empty := {}

route_or_empty := route
