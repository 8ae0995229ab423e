# Inputs for tests, built in steps: anonymous(api, "GET /path") creates a request without a credential, by(request, principal)
# adds a principal, and at(request, workspace) adds a workspace. refused(request, denial) adds the reason why the credential is
# invalid. The path is the decoded text.
package keywicket.fixture

anonymous(api, line) := {
	"api": api,
	"time": 1750000000000000000, # 2025-06-15T15:06:40Z, a Sunday
	"request": {
		"method": method,
		"path": path,
		"segments": split(trim_prefix(path, "/"), "/"),
		"raw_query": "",
		"query": {},
		"headers": {},
		"host": "api.example",
	},
	"principal": null,
	"denial": "missing",
	"workspace": nowhere,
	"context": {},
	"source": {"address": null, "principal": null, "certificate": null},
} if {
	[method, path] := split(line, " ")
}

refused(request, denial) := object.union(request, {"denial": denial})

# A principal without an API gets the API of the request.
by(request, principal) := object.union(request, {"denial": null, "principal": object.union({"api": request.api}, principal)})

at(request, workspace) := object.union(request, {"workspace": workspace})

# Principals, by kind and scopes.
workspace_token(scopes) := credential("workspace_token", null, scopes)

workspace_key(scopes) := credential("workspace_key", null, scopes)

personal_key(scopes) := credential("personal_key", "ada", scopes)

principal(kind, api, user, scopes) := object.union(credential(kind, user, scopes), {"api": api})

credential(kind, user, scopes) := {
	"id": "t1",
	"kind": kind,
	"environment": "live",
	"user_id": user,
	"scopes": scopes,
	"aal": null,
	"attributes": {},
	"user_attributes": {},
}

# Values of input.workspace. In `nowhere` and `own`, the request has no workspace header: `nowhere` grants no workspace, and
# `own` grants the credential's workspace. In `granted` and `member(role)`, the request names a workspace, which is granted. In
# `elsewhere`, the request names a workspace, which is not granted.
nowhere := {"requested": false, "granted": false, "id": null, "slug": null, "role": null, "attributes": {}}

own := {"requested": false, "granted": true, "id": "64f1a2b3c4d5e6f7a8b9c0d1", "slug": "acme", "role": null, "attributes": {}}

granted := object.union(own, {"requested": true})

member(role) := object.union(granted, {"role": role})

elsewhere := object.union(nowhere, {"requested": true})
