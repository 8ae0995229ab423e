# Tests of some rows of the VelaFlows table. test/answers/routes_test.go compares the whole table with the routes in
# test/product, which come from the API document of VelaFlows.
package velaflows_test

import data.apis.velaflows
import data.keywicket
import data.keywicket.fixture

# fixture.by adds the principal to the request, and fixture.at adds the workspace.
allows(line, scopes) if {
	request := fixture.by(fixture.anonymous("velaflows", line), fixture.workspace_token(scopes))
	keywicket.decision.allow with input as fixture.at(request, fixture.granted)
}

test_catalogue_has_twenty_scopes if count(velaflows.scopes.workspace) == 20

test_every_scope_opens_a_route if {
	every scope, _ in velaflows.scopes.workspace {
		some route in velaflows.routes
		scope in object.get(route, "scopes", [])
	}
}

test_creating_updating_and_deleting_a_lead_need_different_scopes if {
	allows("POST /api/v1/crm/leads", ["crm:create"])
	allows("PATCH /api/v1/crm/leads/7", ["crm:update"])
	allows("DELETE /api/v1/crm/leads/7", ["crm:delete"])
	not allows("DELETE /api/v1/crm/leads/7", ["crm:create", "crm:update", "crm:read"])
}

test_querying_the_knowledge_base_needs_ai_read if {
	allows("POST /api/v1/ai/query", ["ai:read"])
	not allows("POST /api/v1/ai/training", ["ai:read"])
}

test_administration_needs_admin_all if {
	allows("GET /api/v1/admin/audit", ["admin:all"])
	not allows("GET /api/v1/admin/audit", object.keys(velaflows.scopes.workspace) - {"admin:all"})
}

# --- keywicket's console

allows_session(line, workspace) if {
	session := fixture.credential("session", "ada", ["admin:all", "workspaces:list"])
	request := fixture.by(fixture.anonymous("velaflows", line), session)
	keywicket.decision.allow with input as fixture.at(request, workspace)
}

test_pages_of_the_console_are_public if {
	every line in ["GET /settings", "POST /settings", "GET /settings/developer/api-tokens", "POST /settings/a/b/c"] {
		keywicket.decision.allow with input as fixture.anonymous("velaflows", line)
	}
	every line in ["GET /settings/", "GET /settingsx", "PUT /settings", "DELETE /settings/developer"] {
		not keywicket.decision.allow with input as fixture.anonymous("velaflows", line)
	}
}

test_only_two_routes_of_the_management_api_are_public if {
	public := {sprintf("%s %s", [r.method, r.path]) |
		some r in velaflows.routes
		startswith(r.path, "/api/keywicket/")
		r.public
	}
	public == {"GET /api/keywicket/v1/openapi.json", "POST /api/keywicket/v1/leaked"}
}

test_management_needs_admin_all if {
	every line in ["GET /api/keywicket/v1/tokens", "POST /api/keywicket/v1/tokens/7/rotate", "PATCH /api/keywicket/v1/workspace"] {
		allows(line, ["admin:all"])
		not allows(line, object.keys(velaflows.scopes.workspace) - {"admin:all"})
	}
}

test_role_limits_sessions if {
	every line in ["GET /api/keywicket/v1/tokens", "DELETE /api/keywicket/v1/tokens/7"] {
		allows_session(line, fixture.member("owner"))
		allows_session(line, fixture.member("admin"))
		not allows_session(line, fixture.member("member"))
		not allows_session(line, fixture.member("guest"))
		not allows_session(line, fixture.nowhere)
	}
}

test_roles_do_not_limit_tokens if {
	every role, _ in object.union(velaflows.roles, {"unheard-of": []}) {
		request := fixture.by(fixture.anonymous("velaflows", "GET /api/v1/tags"), fixture.workspace_token(["tags:read"]))
		keywicket.decision.allow with input as fixture.at(request, fixture.member(role))
	}
}

test_only_sessions_list_the_workspaces_of_a_user if {
	allows_session("GET /api/keywicket/v1/workspaces", fixture.nowhere)
	every role, _ in velaflows.roles {
		allows_session("GET /api/keywicket/v1/workspaces", fixture.member(role))
	}
	not allows("GET /api/keywicket/v1/workspaces", ["admin:all", "workspaces:list"])
}
