package keywicket

# METADATA
# description: |
#   The row of the API's route table (apis/NAME/data.yaml) that the request addresses, with what the decision needs of
#   the API; undefined when there is none. Where several rows match, a literal segment goes before a parameter, from the
#   left. As an entrypoint it is compiled to a rule per row, which OPA's index finds by API, method and path: the time of
#   a match does not grow with the table.
# entrypoint: true
route := max(matches)[1]

# METADATA
# description: |
#   Every row that matches, behind its shape: "/0/0" for "/issues/mine", "/0/*" for "/issues/{issue}". The greatest
#   shape is the one that stays literal longest. Two rows with one method and shape are refused at load.
matches contains [shape, row] if {
	some name
	some r in data.apis[name].routes
	input.api == name
	input.request.method == r.method

	# A row's path is decoded as a request's is, so that both may be escaped in any way. Unlike a form, a path has no + for
	# a space.
	pattern := urlquery.decode(replace(regex.replace(r.path, `\{[^/]*\}`, "*"), "+", "%2B"))
	glob.match(pattern, ["/"], input.request.path)

	# A glob's * matches the empty segment too, which a parameter must not.
	contains(input.request.path, "//") == false
	endswith(input.request.path, "/") == endswith(r.path, "/")

	# A path without one clear meaning has no segments.
	count(input.request.segments) > 0

	shape := regex.replace(pattern, `[^/*]+`, "0")
	overrides := object.get(data.apis[name], "overrides", {})
	row := {
		"name": concat(" ", [r.method, r.path]),
		"scopes": object.get(r, "scopes", []),
		"public": object.get(r, "public", false),
		"level": object.get(r, "level", "workspace"),
		"overrides": {
			"workspace": object.get(overrides, "workspace", []),
			"user": object.get(overrides, "user", []),
		},
		"roles": object.get(data.apis[name], "roles", {}),
	}
}
