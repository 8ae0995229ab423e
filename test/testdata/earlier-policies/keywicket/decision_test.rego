# One test for each access decision that the product has defined.
package keywicket_test

import data.keywicket
import data.keywicket.fixture

inbox := fixture.anonymous("velaflows", "GET /api/v1/inbox/conversations")

issues := fixture.anonymous("velocity", "GET /api/issues")

profile := fixture.anonymous("velocity", "GET /api/user")

outcome(request) := "allow" if {
	keywicket.decision.allow with input as request
} else := concat(" ", [decision.code, decision.reason]) if {
	decision := keywicket.decision with input as request
}

# --- the keys of the decision

test_allowing_decision_has_every_key if {
	keywicket.decision == {
		"allow": true,
		"code": null,
		"reason": null,
		"required_scopes": ["inbox:read"],
		"route": "GET /api/v1/inbox/conversations",
	} with input as fixture.at(fixture.by(inbox, fixture.workspace_token(["inbox:read"])), fixture.granted)
}

test_denying_decision_has_every_key if {
	keywicket.decision == {
		"allow": false,
		"code": "FORBIDDEN",
		"reason": "missing_scope",
		"required_scopes": ["inbox:read"],
		"route": "GET /api/v1/inbox/conversations",
	} with input as fixture.at(fixture.by(inbox, fixture.workspace_token(["crm:read"])), fixture.granted)
}

test_decision_without_a_route_has_every_key if {
	keywicket.decision == {
		"allow": false,
		"code": "UNAUTHORIZED",
		"reason": "missing",
		"required_scopes": [],
		"route": null,
	} with input as fixture.anonymous("velaflows", "GET /nothing")
}

test_decision_on_an_empty_input_denies if {
	not keywicket.decision.allow with input as {}
}

# --- public routes

test_public_route_is_open_without_a_credential if {
	outcome(fixture.anonymous("velocity", "POST /api/oauth/token")) == "allow"
}

test_public_route_is_open_with_an_invalid_credential if {
	some denial in ["malformed", "unknown", "expired", "revoked"]
	outcome(fixture.refused(fixture.anonymous("velocity", "GET /healthz"), denial)) == "allow"
}

test_public_route_ignores_the_workspace_header if {
	outcome(fixture.at(fixture.anonymous("velaflows", "GET /healthz"), fixture.elsewhere)) == "allow"
}

test_only_true_makes_a_route_public if {
	every public in ["no", "yes", "true", "", null, 0, 1, {}, []] {
		apis := {"zoo": {"routes": [{"method": "GET", "path": "/animals", "public": public, "scopes": ["a"]}]}}
		request := fixture.anonymous("zoo", "GET /animals")
		not keywicket.decision.allow with data.apis as apis with input as request
	}
}

test_public_route_is_not_public_for_other_methods if {
	outcome(fixture.anonymous("velaflows", "POST /healthz")) == "UNAUTHORIZED missing"
}

# --- order: credential, workspace, route and scope

test_credential_is_checked_before_the_workspace if {
	every denial in ["missing", "malformed", "unknown", "expired", "revoked"] {
		request := fixture.at(fixture.refused(inbox, denial), fixture.elsewhere)
		outcome(request) == concat(" ", ["UNAUTHORIZED", denial])
	}
}

test_workspace_is_checked_before_the_scope if {
	request := fixture.by(inbox, fixture.workspace_token([]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_workspace_is_checked_before_the_route if {
	request := fixture.by(fixture.anonymous("velaflows", "GET /nothing"), fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	outcome(fixture.at(request, fixture.nowhere)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

# --- overrides

test_override_replaces_the_required_scope if {
	request := fixture.by(inbox, fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(request, fixture.granted)) == "allow"
}

test_override_does_not_apply_in_another_workspace if {
	token := fixture.by(inbox, fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(token, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	key := fixture.by(issues, fixture.workspace_key(["workspace:admin"]))
	outcome(fixture.at(key, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
	person := fixture.by(issues, fixture.personal_key(["admin"]))
	outcome(fixture.at(person, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_override_opens_no_unlisted_route if {
	token := fixture.by(fixture.anonymous("velaflows", "GET /nothing"), fixture.workspace_token(["admin:all"]))
	outcome(fixture.at(token, fixture.granted)) == "FORBIDDEN no_route"
	person := fixture.by(fixture.anonymous("velocity", "GET /nothing"), fixture.personal_key(["admin"]))
	outcome(fixture.at(person, fixture.member("owner"))) == "FORBIDDEN no_route"
}

test_override_of_another_api_has_no_effect if {
	request := fixture.by(issues, fixture.workspace_key(["admin:all"]))
	outcome(fixture.at(request, fixture.own)) == "FORBIDDEN missing_scope"
}

# --- workspace tokens

test_workspace_token_without_the_header_is_denied if {
	request := fixture.by(inbox, fixture.workspace_token(["inbox:read"]))
	outcome(fixture.at(request, fixture.nowhere)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

test_workspace_token_with_the_write_scope_cannot_read if {
	request := fixture.by(inbox, fixture.workspace_token(["inbox:write"]))
	outcome(fixture.at(request, fixture.granted)) == "FORBIDDEN missing_scope"
}

# --- workspace keys

test_workspace_key_needs_no_header if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["issues:read"])), fixture.own)) == "allow"
}

test_workspace_key_with_the_header_of_its_workspace_is_allowed if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["issues:read"])), fixture.granted)) == "allow"
}

test_workspace_key_with_the_header_of_another_workspace_is_denied if {
	request := fixture.by(issues, fixture.workspace_key(["issues:read"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_workspace_key_never_opens_a_user_level_route if {
	every scopes in [["workspace:admin"], ["admin"], ["user:read"]] {
		request := fixture.by(profile, fixture.workspace_key(scopes))
		outcome(fixture.at(request, fixture.own)) == "FORBIDDEN missing_scope"
	}
}

test_user_override_has_no_effect_for_a_workspace_key if {
	outcome(fixture.at(fixture.by(issues, fixture.workspace_key(["admin"])), fixture.own)) == "FORBIDDEN missing_scope"
}

# --- personal keys

test_personal_key_without_the_header_opens_user_level_routes_only if {
	key := fixture.personal_key(["user:read", "issues:read"])
	outcome(fixture.by(profile, key)) == "allow"
	outcome(fixture.by(issues, key)) == "WORKSPACE_ACCESS_DENIED workspace_required"
}

test_personal_key_on_an_unlisted_route_is_denied if {
	request := fixture.by(fixture.anonymous("velocity", "GET /nothing"), fixture.personal_key(["admin"]))
	outcome(request) == "FORBIDDEN no_route"
}

test_personal_key_with_another_workspace_is_denied_on_user_level_routes if {
	request := fixture.by(profile, fixture.personal_key(["admin"]))
	outcome(fixture.at(request, fixture.elsewhere)) == "WORKSPACE_ACCESS_DENIED workspace_mismatch"
}

test_personal_key_needs_the_scope_and_the_role if {
	write := fixture.anonymous("velocity", "POST /api/issues")
	both := fixture.by(write, fixture.personal_key(["issues:write"]))
	outcome(fixture.at(both, fixture.member("member"))) == "allow"
	outcome(fixture.at(both, fixture.member("guest"))) == "FORBIDDEN missing_scope"
	reader := fixture.by(write, fixture.personal_key(["issues:read"]))
	outcome(fixture.at(reader, fixture.member("owner"))) == "FORBIDDEN missing_scope"
}

test_role_limits_a_personal_key_with_admin if {
	settings := fixture.by(fixture.anonymous("velocity", "PATCH /api/workspace"), fixture.personal_key(["admin"]))
	every role in ["owner", "admin"] {
		outcome(fixture.at(settings, fixture.member(role))) == "allow"
	}
	every role in ["member", "guest", "unheard-of", null] {
		outcome(fixture.at(settings, fixture.member(role))) == "FORBIDDEN missing_scope"
	}
}

test_role_limits_a_personal_key_with_the_workspace_override if {
	write := fixture.by(fixture.anonymous("velocity", "POST /api/issues"), fixture.personal_key(["workspace:admin"]))
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
	every line in ["GET /api/user", "PATCH /api/user", "POST /api/workspaces", "DELETE /api/workspaces/acme"] {
		outcome(fixture.by(fixture.anonymous("velocity", line), fixture.personal_key(["admin"]))) == "allow"
	}
}

# --- a workspace in the path of a route is not the workspace of the request

test_workspace_in_the_path_is_not_checked if {
	request := fixture.by(
		fixture.anonymous("velocity", "PATCH /api/workspaces/somebody-elses"),
		fixture.personal_key(["workspaces:update"]),
	)
	outcome(request) == "allow"
}

# --- other kinds of credentials

test_all_kinds_of_user_credentials_follow_the_same_rules if {
	every kind in ["oauth_token", "session"] {
		request := fixture.by(issues, fixture.principal(kind, "velocity", "ada", ["issues:read"]))
		outcome(fixture.at(request, fixture.member("guest"))) == "allow"
		outcome(request) == "WORKSPACE_ACCESS_DENIED workspace_required"
	}
}

test_oauth_token_of_one_workspace_needs_no_header if {
	request := fixture.by(issues, fixture.principal("oauth_token", "velocity", "ada", ["issues:read"]))
	outcome(fixture.at(request, object.union(fixture.own, {"role": "guest"}))) == "allow"
}

test_role_limits_a_session_with_admin if {
	write := fixture.anonymous("velocity", "POST /api/issues")
	request := fixture.by(write, fixture.principal("session", "velocity", "ada", ["admin"]))
	outcome(fixture.at(request, fixture.member("member"))) == "allow"
	outcome(fixture.at(request, fixture.member("guest"))) == "FORBIDDEN missing_scope"
}

test_unknown_kind_opens_no_route if {
	every line in ["GET /api/issues", "GET /api/user"] {
		principal := fixture.principal("robot", "velocity", "ada", ["admin", "workspace:admin"])
		request := fixture.by(fixture.anonymous("velocity", line), principal)
		outcome(fixture.at(request, fixture.member("owner"))) == "FORBIDDEN missing_scope"
	}
}
