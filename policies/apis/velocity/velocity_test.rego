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

# --- keywicket's console

test_pages_of_the_console_are_public if {
	every line in ["GET /settings", "POST /settings", "GET /settings/account/personal-api-keys", "POST /settings/a/b/c"] {
		keywicket.decision.allow with input as fixture.anonymous("velocity", line)
	}
	every line in ["GET /settings/", "GET /settingsx", "PUT /settings", "DELETE /settings/account"] {
		not keywicket.decision.allow with input as fixture.anonymous("velocity", line)
	}
}

test_only_two_routes_of_the_management_api_are_public if {
	public := {sprintf("%s %s", [r.method, r.path]) |
		some r in velocity.routes
		startswith(r.path, "/api/keywicket/")
		r.public
	}
	public == {"GET /api/keywicket/v1/openapi.json", "POST /api/keywicket/v1/leaked"}
}

test_keys_of_a_workspace_need_workspace_admin if {
	every line in ["GET /api/keywicket/v1/tokens", "POST /api/keywicket/v1/tokens/7/rotate", "PATCH /api/keywicket/v1/workspace"] {
		allows(line, fixture.workspace_key(["workspace:admin"]), fixture.own)
		not allows(line, fixture.workspace_key(object.keys(velocity.scopes.workspace) - {"workspace:admin"}), fixture.own)
		allows(line, fixture.credential("session", "ada", ["admin"]), fixture.member("admin"))
		not allows(line, fixture.credential("session", "ada", ["admin"]), fixture.member("member"))
	}
}

test_personal_keys_and_apps_need_admin if {
	every line in ["POST /api/keywicket/v1/personal-keys", "POST /api/keywicket/v1/apps/7/rotate", "DELETE /api/keywicket/v1/grants/7"] {
		allows(line, fixture.personal_key(["admin"]), fixture.nowhere)
		not allows(line, fixture.personal_key(object.keys(velocity.scopes.user) - {"admin"}), fixture.nowhere)
		not allows(line, fixture.personal_key(object.keys(velocity.scopes.workspace)), fixture.nowhere)
		not allows(line, fixture.workspace_key(["workspace:admin"]), fixture.own)
	}
}

test_workspaces_of_the_user_need_workspaces_list if {
	allows("GET /api/keywicket/v1/workspaces", fixture.personal_key(["workspaces:list"]), fixture.nowhere)
	not allows("GET /api/keywicket/v1/workspaces", fixture.personal_key(["user:read"]), fixture.nowhere)
}
