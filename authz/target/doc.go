// Package target gives the target of a request its one meaning: the host, the path and the query. A client may spell a target in
// several ways, and servers may read one spelling differently. Policies compare the result, so every spelling of a target must have
// the same result. A target that servers could read differently has no path, and no route matches it.
package target
