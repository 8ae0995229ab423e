# Inputs for tests, built in steps: anonymous(api, "GET /path") creates a request, by(request, principal) adds a
# principal, and at(request, workspace) adds a workspace. The path in the second parameter is decoded.
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

# Values of input.workspace. In `nowhere` and `own`, the request has no workspace header: `nowhere` grants no workspace,
# and `own` grants the credential's workspace. In `granted` and `member(role)`, the request has the header of a granted
# workspace. In `elsewhere`, the request has the header of a workspace that is not granted.
nowhere := {"requested": false, "granted": false, "id": null, "slug": null, "role": null}

own := {"requested": false, "granted": true, "id": "64f1a2b3c4d5e6f7a8b9c0d1", "slug": "acme", "role": null}

granted := object.union(own, {"requested": true})

member(role) := object.union(granted, {"role": role})

elsewhere := object.union(nowhere, {"requested": true})
