package explain

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/keywicket/keywicket/policies/route"
	"github.com/keywicket/keywicket/policies/table"
)

// idForm matches segments that are ids: numbers, hexadecimal numbers, UUIDs, and these with a prefix, such as ENG-12.
var idForm = regexp.MustCompile(`^([A-Za-z]+[_-])?([0-9]+|[0-9a-fA-F]{8,}(-[0-9a-fA-F]+)*)$`)

// proposedRow returns the path of a row for a request with these segments, or the first character that a row cannot have. The path
// starts as the table's rows start, with their parameters. After that, a segment that is an id becomes a parameter, if the table
// has parameters at all.
func proposedRow(routes []table.Route, segments []string) (path, unsupported string) {
	path, n := rowStart(routes, segments)
	hasParameters := false
	for _, r := range routes {
		hasParameters = hasParameters || strings.Contains(r.Name(), "{")
	}
	for _, s := range segments[n:] {
		if hasParameters && idForm.MatchString(s) {
			name := "{id}"
			for i := 2; strings.Contains(path, name); i++ {
				name = fmt.Sprintf("{id%d}", i)
			}
			path += "/" + name
			continue
		}
		if i := strings.IndexAny(s, "#%;?"); i >= 0 {
			return "", s[i : i+1]
		}
		s = strings.ReplaceAll(url.PathEscape(s), "%2C", ",") // a comma needs no escape in a path
		if strings.HasPrefix(s, ":") {
			s = "%3A" + s[1:] // a table rejects :id as a misspelled parameter
		}
		path += "/" + s
	}
	return path, ""
}

// rowStart returns the longest start of a row that matches the start of the segments, and the number of these segments. Of two
// starts, it prefers the one with fewer parameters.
func rowStart(routes []table.Route, segments []string) (start string, n int) {
	for _, r := range routes {
		_, path, _ := strings.Cut(r.Name(), " ")
		pattern, err := route.Parse(path)
		if err != nil {
			continue // cannot happen: the table has parsed the row
		}
		k := pattern.MatchingSegments(segments)
		matching := strings.Join(strings.SplitN(path, "/", k+2)[:k+1], "/") // the text before the first slash is empty
		if strings.HasSuffix(matching, "...}") {
			k = len(segments)
		}
		if k > n || k == n && strings.Count(matching, "{") < strings.Count(start, "{") {
			start, n = matching, k
		}
	}
	return start, n
}
