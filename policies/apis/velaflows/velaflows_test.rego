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
