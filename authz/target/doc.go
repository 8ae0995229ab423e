// Package target parses the target of a request: the host, the path and the query. A client may spell a target in several ways, and
// servers may read one spelling differently. Policies compare the parsed target, so it must be the same for every spelling. A target
// that servers could read differently has no path, and no route matches it.
package target
