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
	input.workspace.requested
	not input.workspace.granted
} else := denied("WORKSPACE_ACCESS_DENIED", "workspace_required") if {
	workspace_needed
	not input.workspace.granted
} else := allowed if {
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
# description: The request cannot be meant for no workspace.
workspace_needed if input.principal.kind in workspace_kinds

workspace_needed if route.level == "workspace"

# METADATA
# description: |
#   The principal may do what the route is for. A workspace's credential needs the scopes of a workspace-level route, and
#   never opens a user-level one.
permitted if {
	route.level == "workspace"
	input.workspace.granted
	input.principal.kind in workspace_kinds
	covers(input.principal.scopes, route.overrides.workspace)
}

# A user's credential can do in a workspace what both its own scopes and the user's role there allow.
permitted if {
	route.level == "workspace"
	input.workspace.granted
	input.principal.kind in user_kinds
	covers(input.principal.scopes, array.concat(route.overrides.workspace, route.overrides.user))
	covers(route.roles[input.workspace.role], route.overrides.workspace)
}

# What a user does as such, no role limits.
permitted if {
	route.level == "user"
	input.principal.kind in user_kinds
	covers(input.principal.scopes, route.overrides.user)
}

# METADATA
# description: The scopes hold every one that the route requires, or an override, which stands for all of them.
covers(scopes, _) if {
	every scope in route.scopes {
		scope in scopes
	}
}

covers(scopes, overrides) if {
	some scope in scopes
	scope in overrides
}

# METADATA
# description: The decision that lets the request in.
allowed := {
	"allow": true,
	"code": null,
	"reason": null,
	"required_scopes": route.scopes,
	"route": route.name,
}

# METADATA
# description: The decision that refuses the request, for a reason under one of the codes of the API documents.
denied(code, reason) := {
	"allow": false,
	"code": code,
	"reason": reason,
	"required_scopes": object.get(addressed, "scopes", []),
	"route": object.get(addressed, "name", null),
}

# METADATA
# description: The route, or an empty object where there is none.
default addressed := {}

addressed := route
