package keywicket

# METADATA
# description: |
#   The row of the API's route table (apis/NAME/data.yaml) that the request matches, with the API's overrides and roles.
#   It is undefined if no row matches. If several rows match, compare them at the first segment from the left that is
#   literal in one row and a parameter in another: the row with the literal segment has precedence. OPA compiles this
#   entrypoint to one rule for each row. OPA's index finds the rule by API, method and path, so the time does not grow
#   with the table.
# entrypoint: true
route := max(matches)[1]

# METADATA
# description: |
#   The matching rows, as pairs of a shape and a row. In a shape, 0 is a literal segment, and * is a parameter: "/0/0" for
#   "/issues/mine", "/0/*" for "/issues/{issue}". The row with precedence has the greatest shape. If two rows have the
#   same method and shape, the policy is refused at load.
matches contains [shape, row] if {
	some name
	some r in data.apis[name].routes
	input.api == name
	input.request.method == r.method

	# A row's path is decoded in the same way as a request's path, so both can contain any escapes. In a path, unlike in a
	# form, + does not mean a space.
	pattern := urlquery.decode(replace(regex.replace(r.path, `\{[^/]*\}`, "*"), "+", "%2B"))
	glob.match(pattern, ["/"], input.request.path)

	# The * of a glob also matches an empty segment. A parameter must not match an empty segment.
	contains(input.request.path, "//") == false
	endswith(input.request.path, "/") == endswith(r.path, "/")

	# An ambiguous path has no segments.
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
