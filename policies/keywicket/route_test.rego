# Tests of the rule `route`, which finds the row of a request.
package keywicket_route_test

import data.keywicket
import data.keywicket.fixture

zoo := {"zoo": {
	"scopes": {"workspace": {"a": "", "b": ""}},
	"routes": [
		{"method": "GET", "path": "/", "scopes": ["a"]},
		{"method": "GET", "path": "/animals", "scopes": ["a"]},
		{"method": "GET", "path": "/animals/{id}", "scopes": ["a"]},
		{"method": "GET", "path": "/animals/latest", "scopes": ["b"]},
		{"method": "GET", "path": "/animals/{id}/parts", "scopes": ["a"]},
		{"method": "GET", "path": "/animals/latest/{part}", "scopes": ["b"]},
		{"method": "GET", "path": "/cages/", "scopes": ["a"]},
		{"method": "POST", "path": "/animals", "scopes": ["a", "b"]},
		{"method": "GET", "path": "/animals/%6Eewest", "scopes": ["b"]},
		{"method": "GET", "path": "/c+a%67es/caf%C3%A9", "scopes": ["b"]},
	],
}}

matched(line) := name if {
	name := keywicket.route.name with data.apis as zoo with input as fixture.anonymous("zoo", line)
}

test_route_by_literal_segments if matched("GET /animals") == "GET /animals"

test_route_by_a_parameter if matched("GET /animals/7") == "GET /animals/{id}"

test_literal_has_precedence_over_a_parameter if {
	matched("GET /animals/latest") == "GET /animals/latest"
}

test_literal_further_left_has_precedence if {
	matched("GET /animals/latest/parts") == "GET /animals/latest/{part}"
}

test_parameter_is_one_segment if {
	not matched("GET /animals/7/8")
}

test_parameter_is_not_empty if {
	not matched("GET /animals/")
	not matched("GET /animals//parts")
}

test_trailing_slash_is_another_path if {
	matched("GET /cages/") == "GET /cages/"
	not matched("GET /cages")
}

test_root_is_a_path if matched("GET /") == "GET /"

test_method_is_exact if {
	not matched("HEAD /animals")
	not matched("get /animals")
	not matched("DELETE /animals")
}

test_path_is_exact if {
	not matched("GET /Animals")
	not matched("GET /animals.")
	not matched("GET /animals;x=1")
}

test_path_of_a_row_is_decoded if {
	matched("GET /animals/newest") == "GET /animals/%6Eewest"
	matched("GET /c+ages/café") == "GET /c+a%67es/caf%C3%A9"
	not matched("GET /c ages/café")
}

test_row_of_another_api_does_not_match if {
	request := fixture.anonymous("crm", "GET /animals")
	not keywicket.route with data.apis as zoo with input as request
}

test_ambiguous_path_matches_no_row if {
	request := object.union(
		fixture.anonymous("zoo", "GET /animals/7"),
		{"request": {"segments": []}},
	)
	not keywicket.route with data.apis as zoo with input as request
}

# Rows of every form. They show the precedence of each form over the next one.
forms := {"zoo": {
	"scopes": {"workspace": {"a": ""}},
	"routes": [
		{"method": "GET", "path": "/files/{path...}", "scopes": ["a"]},
		{"method": "GET", "path": "/files/{name}", "scopes": ["a"]},
		{"method": "GET", "path": "/files/{name}.json", "scopes": ["a"]},
		{"method": "GET", "path": "/files/report-{id}.json", "scopes": ["a"]},
		{"method": "GET", "path": "/files/report-7.json", "scopes": ["a"]},
		{"method": "POST", "path": "/charges/{chargeId}:refund", "scopes": ["a"]},
		{"method": "GET", "path": "/compare/{base}...{head}", "scopes": ["a"]},
		{"method": "GET", "path": "/odata/Users('{id}')/$value", "scopes": ["a"]},
		{"method": "*", "path": "/any/{enterprise-team}", "scopes": ["a"]},
		{"method": "GET", "path": "/any/{id}", "scopes": ["a"]},
		{"grpc": "zoo.v1.Animals/Feed", "scopes": ["a"]},
		{"grpc": "zoo.v1.Animals/*", "scopes": ["a"]},
	],
}}

matched_in_forms(line) := name if {
	name := keywicket.route.name with data.apis as forms with input as fixture.anonymous("zoo", line)
}

test_order_of_literal_partial_parameter_and_rest if {
	matched_in_forms("GET /files/report-7.json") == "GET /files/report-7.json"
	matched_in_forms("GET /files/report-8.json") == "GET /files/report-{id}.json"
	matched_in_forms("GET /files/other.json") == "GET /files/{name}.json"
	matched_in_forms("GET /files/.json") == "GET /files/{name}"
	matched_in_forms("GET /files/a/b.json") == "GET /files/{path...}"
	matched_in_forms("GET /files/a/") == "GET /files/{path...}"
	not matched_in_forms("GET /files/")
	not matched_in_forms("GET /files")
}

test_text_around_a_parameter_is_literal if {
	matched_in_forms("POST /charges/ch_7:refund") == "POST /charges/{chargeId}:refund"
	not matched_in_forms("POST /charges/:refund")
	not matched_in_forms("POST /charges/ch_7")
	matched_in_forms("GET /compare/main...topic") == "GET /compare/{base}...{head}"
	not matched_in_forms("GET /compare/main..topic")
	matched_in_forms("GET /odata/Users('ada')/$value") == "GET /odata/Users('{id}')/$value"
	not matched_in_forms("GET /odata/UsersXadaX/$value")
}

test_method_has_precedence_over_any_method if {
	matched_in_forms("GET /any/7") == "GET /any/{id}"
	matched_in_forms("PURGE /any/7") == "* /any/{enterprise-team}"
	matched_in_forms("* /any/7") == "* /any/{enterprise-team}"
}

test_head_matches_get_rows_if_the_table_permits_it if {
	matched_in_forms("HEAD /any/7") == "* /any/{enterprise-team}"
	not matched_in_forms("HEAD /files/x")
	request := fixture.anonymous("zoo", "HEAD /any/7")
	with_get := json.patch(forms, [{"op": "add", "path": "/zoo/head_with_get", "value": true}])
	keywicket.route.name == "GET /any/{id}" with data.apis as with_get with input as request
}

test_grpc_row_matches_a_post_request if {
	matched_in_forms("POST /zoo.v1.Animals/Feed") == "POST /zoo.v1.Animals/Feed"
	matched_in_forms("POST /zoo.v1.Animals/List") == "POST /zoo.v1.Animals/{method}"
	not matched_in_forms("GET /zoo.v1.Animals/Feed")
	not matched_in_forms("POST /zoo.v1.Keepers/List")
}

test_rows_contain_all_rows_of_a_table if {
	rows := keywicket.rows with data.apis as forms
	names := [row.name | some row in rows.zoo]
	count(names) == 12
	names[11] == "POST /zoo.v1.Animals/{method}"
}

test_route_requires_all_its_scopes if {
	request := fixture.at(fixture.anonymous("zoo", "POST /animals"), fixture.own)
	outcomes := {scopes: allow |
		some scopes in [["a"], ["b"], ["a", "b"], ["b", "a", "c"]]
		principal := fixture.principal("workspace_token", "zoo", null, scopes)
		allow := keywicket.decision.allow with data.apis as zoo
			with data.keywicket.deny as set()
			with input as fixture.by(request, principal)
	}
	outcomes == {["a"]: false, ["b"]: false, ["a", "b"]: true, ["b", "a", "c"]: true}
}

crm := {"crm": {
	"scopes": {"workspace": {"crm:read": "", "crm:write": "", "crm:delete": "", "crm:*": "", "tags:read": "", "root": ""}},
	"overrides": {"workspace": ["root"]},
	"implies": {"crm:write": ["crm:read"], "crm:delete": ["crm:write"], "crm:*": ["crm:*"], "tags:read": []},
	"routes": [
		{"method": "GET", "path": "/deals", "scopes": ["crm:read"]},
		{"method": "GET", "path": "/labels", "any_of": ["tags:read", "crm:write"]},
		{"method": "GET", "path": "/both", "scopes": ["crm:read"], "any_of": ["tags:read", "crm:delete"]},
	],
}}

scopes_that_open(path) := {scope |
	some scope in ["crm:read", "crm:write", "crm:delete", "crm:*", "tags:read", "root"]
	request := fixture.at(fixture.anonymous("crm", concat(" ", ["GET", path])), fixture.own)
	principal := fixture.principal("workspace_token", "crm", null, [scope])
	keywicket.decision.allow with data.apis as crm
		with data.keywicket.deny as set()
		with input as fixture.by(request, principal)
}

test_implied_scope_is_sufficient if {
	scopes_that_open("/deals") == {"crm:read", "crm:write", "crm:delete", "crm:*", "root"}
}

test_any_of_requires_one_of_several_scopes if {
	scopes_that_open("/labels") == {"tags:read", "crm:write", "crm:delete", "crm:*", "root"}
	scopes_that_open("/both") == {"crm:delete", "crm:*", "root"}
}
