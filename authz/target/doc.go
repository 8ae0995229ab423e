// Package target parses the target of a request: the host, the path and the query. A client may spell a target in several ways, and
// two servers may read one spelling differently. Policies compare the parsed target, so the parsed target must be the same for
// every spelling. If servers could read a target in different ways, the parsed target has no path, and no route matches it.
package target
