# METADATA
# title: keywicket
# description: |
#   Decides one request: allow, or deny with a code and a reason. docs/policies.md describes the input and the
#   decision. The first branch of `decision` that is true applies. The product defines the order of the branches:
#   public route, credential, workspace, scope, route.
package keywicket

# METADATA
# description: The decision on the request. If no other branch is true, the last branch denies the request.
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
#   The principal may use the route. On a workspace-level route, a workspace's credential needs the scopes of the route.
#   It can never use a user-level route.
permitted if {
	route.level == "workspace"
	input.workspace.granted
	input.principal.kind in workspace_kinds
	covers(input.principal.scopes, route.overrides.workspace)
}

# In a workspace, a user's credential needs the scopes of the route, and the user's role must permit the route.
permitted if {
	route.level == "workspace"
	input.workspace.granted
	input.principal.kind in user_kinds
	covers(input.principal.scopes, array.concat(route.overrides.workspace, route.overrides.user))
	covers(route.roles[input.workspace.role], route.overrides.workspace)
}

# On a user-level route, the role has no effect.
permitted if {
	route.level == "user"
	input.principal.kind in user_kinds
	covers(input.principal.scopes, route.overrides.user)
}

# METADATA
# description: The scopes include all scopes that the route requires, or they include an override.
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
# description: The decision that allows the request.
allowed := {
	"allow": true,
	"code": null,
	"reason": null,
	"required_scopes": route.scopes,
	"route": route.name,
}

# METADATA
# description: The decision that denies the request, with a code from the API documents and a reason.
denied(code, reason) := {
	"allow": false,
	"code": code,
	"reason": reason,
	"required_scopes": object.get(addressed, "scopes", []),
	"route": object.get(addressed, "name", null),
}

# METADATA
# description: The route, or an empty object if the request addresses no route.
default addressed := {}

addressed := route
