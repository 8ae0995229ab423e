# Tests of some rows of the Velocity table. test/answers/routes_test.go compares the whole table with the routes in
# test/product, which come from the API document of Velocity.
package velocity_test

import data.apis.velocity
import data.keywicket
import data.keywicket.fixture

# fixture.by adds the principal to the request, and fixture.at adds the workspace.
allows(line, principal, workspace) if {
	request := fixture.by(fixture.anonymous("velocity", line), principal)
	keywicket.decision.allow with input as fixture.at(request, workspace)
}

test_catalogue_has_eight_workspace_scopes_and_seven_user_scopes if {
	count(velocity.scopes.workspace) == 8
	count(velocity.scopes.user) == 7
}

test_changing_workspace_settings_needs_workspace_admin if {
	allows("PATCH /api/workspace", fixture.workspace_key(["workspace:admin"]), fixture.own)
	not allows("PATCH /api/workspace", fixture.workspace_key(["workspace:read"]), fixture.own)
}

test_member_reads_and_writes_but_does_not_administer if {
	key := fixture.personal_key(["admin"])
	allows("DELETE /api/issues/7", key, fixture.member("member"))
	allows("GET /api/workspace/members", key, fixture.member("member"))
	not allows("PATCH /api/workspace", key, fixture.member("member"))
}

test_guest_reads if {
	key := fixture.personal_key(["admin"])
	allows("GET /api/projects/7/cycles", key, fixture.member("guest"))
	not allows("POST /api/projects", key, fixture.member("guest"))
}

test_oauth_endpoints_are_public if {
	every line in ["GET /oauth/consent", "POST /oauth/consent", "POST /api/oauth/revoke", "POST /api/oauth/introspect"] {
		keywicket.decision.allow with input as fixture.anonymous("velocity", line)
	}
}

test_metadata_is_public if {
	metadata := "GET /.well-known/oauth-protected-resource"
	every path in ["", "/mcp", "/mcp/", "/api/issues/7/comments", "/a/b/c/d/e/f"] {
		keywicket.decision.allow with input as fixture.anonymous("velocity", concat("", [metadata, path]))
	}
	every path in ["s", "-x/mcp"] {
		not keywicket.decision.allow with input as fixture.anonymous("velocity", concat("", [metadata, path]))
	}
}
