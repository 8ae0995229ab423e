# Each test checks one rule for access that the product's documents define.
package keywicket_decision_test

import data.keywicket
import data.keywicket.fixture

messages := fixture.anonymous("mail", "GET /messages")

issues := fixture.anonymous("tracker", "GET /issues")

profile := fixture.anonymous("tracker", "GET /user")

reads_messages := fixture.at(fixture.by(messages, fixture.workspace_token(["messages:read"])), fixture.granted)

# These tests are for the shipped rules, so they ignore the tables in apis/, and the denials of other files.
decide(request, denials) := decision if {
	decision := keywicket.decision with input as request
		with data.apis as tables
		with data.keywicket.deny as denials
}

outcome(request) := outcome_with(request, set())

outcome_with(request, denials) := "allow" if {
	decide(request, denials).allow
} else := concat(" ", [decision.code, decision.reason]) if {
	decision := decide(request, denials)
}

# --- the decision document has every key

test_allowing_decision_has_every_key if {
	decide(reads_messages, set()) == {
		"allow": true,
		"code": null,
		"reason": null,
		"any_of": [],
		"headers": {},
		"required_scopes": ["messages:read"],
		"route": "GET /messages",
	} with data.keywicket.headers as {}
}

test_denying_decision_has_every_key if {
	request := fixture.at(fixture.by(messages, fixture.workspace_token(["tags:read"])), fixture.granted)
	decide(request, set()) == {
		"allow": false,
		"code": "FORBIDDEN",
		"reason": "missing_scope",
		"any_of": [],
		"required_scopes": ["messages:read"],
		"route": "GET /messages",
	}
}

test_decision_without_a_route_has_every_key if {
	decide(fixture.anonymous("mail", "GET /nothing"), set()) == {
		"allow": false,
		"code": "UNAUTHORIZED",
		"reason": "missing",
		"any_of": [],
		"required_scopes": [],
		"route": null,
	}
}

test_decision_on_an_empty_input_denies if {
	not keywicket.decision.allow with input as {} with data.apis as tables with data.keywicket.deny as set()
}

# --- public routes

test_public_route_is_open_without_a_credential if {
	outcome(fixture.anonymous("tracker", "POST /oauth/token")) == "allow"
}

test_public_route_is_open_with_an_invalid_credential if {
	every denial in ["malformed", "unknown", "expired", "revoked"] {
		outcome(fixture.refused(fixture.anonymous("tracker", "GET /healthz"), denial)) == "allow"
	}
}

test_public_route_ignores_the_workspace_header if {
	outcome(fixture.at(fixture.anonymous("mail", "GET /healthz"), fixture.elsewhere)) == "allow"
}

test_only_true_makes_a_route_public if {
	every public in ["no", "yes", "true", "", null, 0, 1, {}, []] {
		apis := {"zoo": {"routes": [{"method": "GET", "path": "/animals", "public": public, "scopes": ["a"]}]}}
		request := fixture.anonymous("zoo", "GET /animals")
		not keywicket.decision.allow with data.apis as apis with input as request
	}
}

test_public_route_is_closed_to_other_methods if {
	outcome(fixture.anonymous("mail", "POST /healthz")) == "UNAUTHORIZED missing"
}

# --- order: credential, workspace, route and scope

test_credential_is_checked_before_the_workspace if {
	every denial in ["missing", "malformed", "unknown", "expired", "revoked"] {
		request := fixture.at(fixture.refused(messages, denial), fixture.elsewhere)
		outcome(request) == concat(" ", ["UNAUTHORIZED", denial])
	}
}

test_workspace_is_checked_before_the_scope if {
	request := fixture.by(messages, fixture.workspace_token([]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_workspace_is_checked_before_the_route if {
	request := fixture.by(fixture.anonymous("mail", "GET /nothing"), fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	outcome(fixture.at(request, fixture.nowhere)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

# --- overrides

test_override_opens_every_route_of_its_workspace if {
	request := fixture.by(messages, fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(request, fixture.granted)) == "allow"
}

test_override_applies_only_in_its_workspace if {
	token := fixture.by(messages, fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(token, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	key := fixture.by(issues, fixture.workspace_key(["workspace:admin"]))
	outcome(fixture.at(key, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	person := fixture.by(issues, fixture.personal_key(["admin"]))
	outcome(fixture.at(person, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_override_opens_no_unlisted_route if {
	token := fixture.by(fixture.anonymous("mail", "GET /nothing"), fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(token, fixture.granted)) == "FORBIDDEN no_route"
	person := fixture.by(fixture.anonymous("tracker", "GET /nothing"), fixture.personal_key(["admin"]))
	outcome(fixture.at(person, fixture.member("owner"))) == "FORBIDDEN no_route"
}

test_override_of_another_api_has_no_effect if {
	request := fixture.by(issues, fixture.workspace_key(["admin:all"]))
	outcome(fixture.at(request, fixture.own)) == "FORBIDDEN missing_scope"
}

# --- workspace tokens

test_workspace_token_without_the_header_is_denied if {
	request := fixture.by(messages, fixture.workspace_token(["messages:read"]))
	outcome(fixture.at(request, fixture.nowhere)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

test_workspace_token_needs_the_scope_itself if {
	request := fixture.by(messages, fixture.workspace_token(["messages:write"]))
	outcome(fixture.at(request, fixture.granted)) == "FORBIDDEN missing_scope"
}

# --- workspace keys

test_workspace_key_needs_no_header if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["issues:read"])), fixture.own)) == "allow"
}

test_workspace_key_with_the_header_of_its_workspace_is_allowed if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["issues:read"])), fixture.granted)) == "allow"
}

test_workspace_key_with_another_or_a_malformed_header_is_denied if {
	request := fixture.by(issues, fixture.workspace_key(["issues:read"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_workspace_key_never_opens_a_user_level_route if {
	every scopes in [["workspace:admin"], ["admin"], ["user:read"]] {
		request := fixture.by(profile, fixture.workspace_key(scopes))
		outcome(fixture.at(request, fixture.own)) == "FORBIDDEN missing_scope"
	}
}

test_workspace_key_with_the_user_override_opens_nothing if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["admin"])), fixture.own)) == "FORBIDDEN missing_scope"
}

# --- personal keys

test_personal_key_without_the_header_opens_user_level_routes_only if {
	key := fixture.personal_key(["user:read", "issues:read"])
	outcome(fixture.by(profile, key)) == "allow"
	outcome(fixture.by(issues, key)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

test_personal_key_without_the_header_is_denied_on_an_unlisted_route if {
	request := fixture.by(fixture.anonymous("tracker", "GET /nothing"), fixture.personal_key(["admin"]))
	outcome(request) == "FORBIDDEN no_route"
}

test_personal_key_with_another_workspace_is_denied_on_user_level_routes if {
	request := fixture.by(profile, fixture.personal_key(["admin"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_personal_key_needs_the_scope_and_the_role if {
	write := fixture.anonymous("tracker", "POST /issues")
	writer := fixture.by(write, fixture.personal_key(["issues:write"]))
	outcome(fixture.at(writer, fixture.member("member"))) == "allow"
	outcome(fixture.at(writer, fixture.member("guest"))) == "FORBIDDEN missing_scope"
	reader := fixture.by(write, fixture.personal_key(["issues:read"]))
	outcome(fixture.at(reader, fixture.member("owner"))) == "FORBIDDEN missing_scope"
}

test_role_limits_a_personal_key_with_admin if {
	settings := fixture.by(fixture.anonymous("tracker", "PATCH /workspace"), fixture.personal_key(["admin"]))
	every role in ["owner", "admin"] {
		outcome(fixture.at(settings, fixture.member(role))) == "allow"
	}
	every role in ["member", "guest", "unheard-of", null] {
		outcome(fixture.at(settings, fixture.member(role))) == "FORBIDDEN missing_scope"
	}
}

test_role_limits_a_personal_key_with_the_workspace_override if {
	write := fixture.by(fixture.anonymous("tracker", "POST /issues"), fixture.personal_key(["workspace:admin"]))
	outcome(fixture.at(write, fixture.member("member"))) == "allow"
	outcome(fixture.at(write, fixture.member("guest"))) == "FORBIDDEN missing_scope"
}

test_personal_key_with_the_workspace_override_opens_no_user_level_route if {
	request := fixture.by(profile, fixture.personal_key(["workspace:admin"]))
	outcome(fixture.at(request, fixture.member("owner"))) == "FORBIDDEN missing_scope"
}

test_user_level_route_ignores_the_role if {
	request := fixture.by(profile, fixture.personal_key(["user:read"]))
	every role in ["owner", "guest"] {
		outcome(fixture.at(request, fixture.member(role))) == "allow"
	}
}

test_user_override_opens_every_user_level_route if {
	every line in ["GET /user", "PATCH /user", "PATCH /workspaces/acme"] {
		outcome(fixture.by(fixture.anonymous("tracker", line), fixture.personal_key(["admin"]))) == "allow"
	}
}

# --- a workspace in the path of a route is not the workspace of the request

test_workspace_in_the_path_is_not_checked if {
	request := fixture.by(
		fixture.anonymous("tracker", "PATCH /workspaces/somebody-elses"),
		fixture.personal_key(["workspaces:update"]),
	)
	outcome(request) == "allow"
}

# --- rules in other files

too_small := {"code": "PAYMENT_REQUIRED", "reason": "plan_too_small"}

test_denial_of_another_file_denies if {
	outcome_with(reads_messages, {too_small}) == "PAYMENT_REQUIRED plan_too_small"
	outcome_with(reads_messages, set()) == "allow"
	outcome_with(reads_messages, false) == "allow" # the rule cannot distinguish false from undefined, the value without other files
}

test_denial_of_another_file_changes_no_earlier_denial if {
	outcome_with(messages, {too_small}) == "UNAUTHORIZED missing"
	reader := fixture.at(fixture.by(messages, fixture.workspace_token(["tags:read"])), fixture.granted)
	outcome_with(reader, {too_small}) == "FORBIDDEN missing_scope"
	outcome_with(fixture.anonymous("tracker", "GET /healthz"), {too_small}) == "allow"
}

test_first_of_several_denials_applies if {
	limited := {"code": "RATE_LIMITED", "reason": "quota", "retry_after": 30}
	outcome_with(reads_messages, {limited, too_small}) == "PAYMENT_REQUIRED plan_too_small"
	decision := decide(reads_messages, {limited})
	decision.retry_after == 30
	decision.required_scopes == ["messages:read"]
}

test_denial_of_the_wrong_form_denies if {
	every wrong in [{{}}, {"no"}, true, ["no"], {{"allow": true, "code": null, "reason": null}}] {
		not decide(reads_messages, wrong).allow
	}
}

test_decision_contains_the_headers_of_another_file if {
	decision := decide(reads_messages, set()) with data.keywicket.headers as {"x-plan": "pro"}
	decision.allow
	decision.headers == {"x-plan": "pro"}
}

# --- other kinds of users' credentials

test_all_kinds_of_user_credentials_follow_the_same_rules if {
	every kind in ["oauth_token", "session"] {
		request := fixture.by(issues, fixture.principal(kind, "tracker", "ada", ["issues:read"]))
		outcome(fixture.at(request, fixture.member("guest"))) == "allow"
		outcome(request) == "WORKSPACE_ACCESS_DENIED workspace_required"
	}
}

test_oauth_token_of_one_workspace_needs_no_header if {
	request := fixture.by(issues, fixture.principal("oauth_token", "tracker", "ada", ["issues:read"]))
	outcome(fixture.at(request, object.union(fixture.own, {"role": "guest"}))) == "allow"
}

test_role_limits_a_session_with_admin if {
	write := fixture.anonymous("tracker", "POST /issues")
	request := fixture.by(write, fixture.principal("session", "tracker", "ada", ["admin"]))
	outcome(fixture.at(request, fixture.member("member"))) == "allow"
	outcome(fixture.at(request, fixture.member("guest"))) == "FORBIDDEN missing_scope"
}

test_unknown_kind_opens_no_route if {
	every line in ["GET /issues", "GET /user"] {
		principal := fixture.principal("robot", "tracker", "ada", ["admin", "workspace:admin"])
		request := fixture.by(fixture.anonymous("tracker", line), principal)
		outcome(fixture.at(request, fixture.member("owner"))) == "FORBIDDEN missing_scope"
	}
}

# --- routes that require several scopes

scope_lists_that_open(kind, workspace, path) := {scopes |
	some scopes in [[], ["a"], ["b"], ["a", "b"], ["c", "a"], ["b", "c"], ["root"], ["x", "root"], ["admin"]]
	request := fixture.anonymous("several", concat(" ", ["GET", path]))
	outcome(fixture.at(fixture.by(request, fixture.principal(kind, "several", "ada", scopes)), workspace)) == "allow"
}

test_workspace_credential_needs_all_required_scopes if {
	overrides := {["root"], ["x", "root"]}
	scope_lists_that_open("workspace_key", fixture.granted, "/both") == {["a", "b"]} | overrides
	scope_lists_that_open("workspace_key", fixture.granted, "/one-more") == {["a", "b"], ["c", "a"]} | overrides
	scope_lists_that_open("workspace_key", fixture.granted, "/me") == set()
}

test_user_in_a_workspace_needs_all_required_scopes_and_a_sufficient_role if {
	overrides := {["root"], ["x", "root"], ["admin"]}
	every role in ["keeper", "owner"] {
		scope_lists_that_open("personal_key", fixture.member(role), "/both") == {["a", "b"]} | overrides
		scope_lists_that_open("personal_key", fixture.member(role), "/one-more") == {["a", "b"], ["c", "a"]} | overrides
	}
	every role in ["visitor", "nobody", null] {
		scope_lists_that_open("personal_key", fixture.member(role), "/both") == set()
		scope_lists_that_open("personal_key", fixture.member(role), "/one-more") == set()
	}
}

test_user_level_route_needs_all_required_scopes if {
	scope_lists_that_open("personal_key", fixture.nowhere, "/me") == {["a", "b"], ["admin"]}
	scope_lists_that_open("personal_key", fixture.elsewhere, "/me") == set()
}
