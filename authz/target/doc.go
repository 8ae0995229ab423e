// Package target parses the target of a request: the host, the path and the query. A client may write the same target in several
// ways, such as with the escape %61 instead of the letter a. Policies compare the parsed target, so the parsed target must be the
// same for each of these ways. If two servers could decode a path to different segments, the parsed target has no path, and no
// route matches it.
package target
