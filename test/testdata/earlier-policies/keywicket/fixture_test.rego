# Inputs for tests, built from the few things that a test is about: anonymous(api, "GET /path"), then by(principal) and
# at(workspace) on top. The path is the decoded text.
package keywicket.fixture

anonymous(api, line) := {
	"api": api,
	"request": {
		"method": method,
		"path": path,
		"segments": split(trim_prefix(path, "/"), "/"),
		"query": {},
		"headers": {},
		"host": "api.example",
	},
	"principal": null,
	"denial": "missing",
	"workspace": nowhere,
	"context": {},
} if {
	[method, path] := split(line, " ")
}

refused(request, denial) := object.union(request, {"denial": denial})

by(request, principal) := object.union(request, {"denial": null, "principal": principal})

at(request, workspace) := object.union(request, {"workspace": workspace})

# Principals, by kind and scopes.
workspace_token(scopes) := principal("workspace_token", "velaflows", null, scopes)

workspace_key(scopes) := principal("workspace_key", "velocity", null, scopes)

personal_key(scopes) := principal("personal_key", "velocity", "ada", scopes)

principal(kind, api, user, scopes) := {
	"id": "t1",
	"kind": kind,
	"api": api,
	"environment": "live",
	"user_id": user,
	"scopes": scopes,
	"aal": null,
}

# What became of the workspace header: absent and nothing granted; absent and granted by the credential; asked for and
# granted, with a role; asked for in vain.
nowhere := {"requested": false, "granted": false, "id": null, "slug": null, "role": null}

own := {"requested": false, "granted": true, "id": "64f1a2b3c4d5e6f7a8b9c0d1", "slug": "acme", "role": null}

granted := object.union(own, {"requested": true})

member(role) := object.union(granted, {"role": role})

elsewhere := object.union(nowhere, {"requested": true})
