# Tests of the rule that finds the row of a request.
package keywicket_test

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

test_root_path_matches_its_row if matched("GET /") == "GET /"

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
	request := fixture.anonymous("velaflows", "GET /animals")
	not keywicket.route with data.apis as zoo with input as request
}

test_ambiguous_path_matches_no_row if {
	request := object.union(
		fixture.anonymous("zoo", "GET /animals/7"),
		{"request": {"segments": []}},
	)
	not keywicket.route with data.apis as zoo with input as request
}

test_route_requires_all_its_scopes if {
	request := fixture.at(fixture.anonymous("zoo", "POST /animals"), fixture.own)
	outcomes := {scopes: allow |
		some scopes in [["a"], ["b"], ["a", "b"], ["b", "a", "c"]]
		principal := fixture.principal("workspace_token", "zoo", null, scopes)
		allow := keywicket.decision.allow with data.apis as zoo with input as fixture.by(request, principal)
	}
	outcomes == {["a"]: false, ["b"]: false, ["a", "b"]: true, ["b", "a", "c"]: true}
}
