package keywicket

# METADATA
# description: |
#   The row of the API's route table (apis/NAME/data.yaml) that the request addresses, with the values of the API that the
#   decision needs. It is undefined if no row matches. The sidecar finds the same row with an index, in a time that does not
#   grow with the table. The sidecar can use the index only if this file is unchanged, and if no other rule changes what this
#   file defines or reads.
# entrypoint: true
route := row(input.api, data.apis[input.api].routes[min(matches)[2]])

# METADATA
# description: |
#   The rows that match, as [rank by path, rank by method, position in the table]. The rank by path has one element for each
#   segment, from the left. The order of precedence is: literal text, partial segment (text and parameters), parameter, rest.
matches contains [order(shape), method_rank, i] if {
	# An ambiguous path has no segments.
	count(input.request.segments) > 0
	some i, r in data.apis[input.api].routes
	method_rank := methods[method_of(r)]
	path := path_of(r)
	starts_alike(path)
	shape := shape_of(path)
	regex.match(expression(shape), input.request.path)
}

# METADATA
# description: Maps each row method that can match the request's method to a rank. The rank orders the rows with the same path.
methods[method] := 0 if {
	method := input.request.method
	method != "*"
}

methods[method] := 1 if {
	method := "GET"
	input.request.method == "HEAD"
	data.apis[input.api].head_with_get
}

methods[method] := 2 if {
	method := "*"
	is_string(input.request.method)
}

# Most rows fail this test, which takes less time than a regular expression. The test does not decode
# escapes, so every row whose path contains a % passes.
starts_alike(path) if startswith(input.request.path, split(path, "{")[0])

starts_alike(path) if contains(path, "%")

method_of(r) := object.get(r, "method", "POST")

# A gRPC request is an HTTP POST to the path /package.Service/Method. A row with package.Service/* matches every method of the service.
path_of(r) := r.path

path_of(r) := concat("", ["/", replace(r.grpc, "*", "{method}")])

# METADATA
# description: |
#   A path as decoded text. \x01 represents a parameter, and \x02 represents {name...}, the rest of the path. A + in a path is
#   not a space. (In an HTML form, it is a space.)
shape_of(path) := urlquery.decode(replace(parameters, "+", "%2B")) if {
	rest := regex.replace(path, `\{[^{}]*\.\.\.\}`, "\u0002")
	parameters := regex.replace(rest, `\{[^{}]*\}`, "\u0001")
}

expression(shape) := concat("", ["^", replace(replace(literal, "\u0001", `[^/]+`), "\u0002", `[^/](?s:.*)`), "$"]) if {
	literal := regex.replace(shape, `[\\.+*?()|\[\]{}^$]`, `\$0`)
}

order(shape) := [order_of_segment(segment) | some segment in split(shape, "/")]

order_of_segment("\u0002") := [3]

order_of_segment("\u0001") := [2]

# A partial segment with more literal text has precedence over a partial segment with less.
order_of_segment(segment) := [1, 0 - count(replace(segment, "\u0001", ""))] if {
	contains(segment, "\u0001")
	segment != "\u0001"
}

order_of_segment(segment) := [0] if {
	not contains(segment, "\u0001")
	segment != "\u0002"
}

# METADATA
# description: Every row of every table, in the order of the table. The sidecar evaluates the rule `rows` once, for its index.
rows[api] := [row(api, r) | some r in data.apis[api].routes] if some api, _ in data.apis

row(api, r) := {
	"name": concat(" ", [method_of(r), path_of(r)]),
	"scopes": object.get(r, "scopes", []),
	"any_of": object.get(r, "any_of", []),
	"public": object.get(r, "public", false),
	"level": object.get(r, "level", "workspace"),
	"overrides": shared[api].overrides,
	"roles": shared[api].roles,
	"implies": shared[api].implies,
}

# METADATA
# description: The values that all rows of a table share.
shared[api] := {
	"overrides": {
		"workspace": object.get(overrides, "workspace", []),
		"user": object.get(overrides, "user", []),
	},
	"roles": object.get(table, "roles", {}),
	"implies": {scope: graph.reachable(implied[api], {scope}) | some scope, _ in object.get(table, "implies", {})},
} if {
	some api, table in data.apis
	overrides := object.get(table, "overrides", {})
}

# METADATA
# description: Maps each scope of the table (the catalogue) to the scopes that this scope implies directly. A name that ends in * means all scopes with that prefix.
implied[api] := {scope: names |
	some scope in catalogue
	names := {name |
		some name in catalogue
		some pattern in object.get(object.get(table, "implies", {}), scope, [])
		names_scope(pattern, name)
	}
} if {
	some api, table in data.apis
	catalogue := {scope | some _, scopes in object.get(table, "scopes", {}); some scope, _ in scopes}
}

names_scope(pattern, scope) if pattern == scope

names_scope(pattern, scope) if {
	endswith(pattern, "*")
	startswith(scope, trim_suffix(pattern, "*"))
}
