package route_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/route"
)

// The error for a refused pattern says what to write instead.
func TestPatternIsRefused(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                        "the path does not start with a /",
		"users":                   "the path does not start with a /",
		"//users":                 "an empty segment",
		"/users//posts":           "an empty segment",
		"/users/./posts":          "a dot segment",
		"/users/%2e%2e":           "a dot segment",
		"/users/%2Fposts":         "an escaped slash",
		"/users/%":                "a % that is not followed by two hexadecimal digits",
		"/users/%4":               "a % that is not followed by two hexadecimal digits",
		"/users/%4{id}":           "a % that is not followed by two hexadecimal digits",
		"/users/é":                "a character that must be escaped",
		"/users/a b":              "a character that must be escaped",
		"/users/a%23b":            "has a #, which literal text cannot contain",
		"/users;v=1":              "has a raw ;, which literal text cannot contain",
		"/users?page={page}":      "a path has no query",
		"/users/{id}?page={page}": "a path has no query",
		"/users?page":             "a path has no query",
		"/users/:id":              "write {id}; for a literal colon write %3A",
		"/users/<id>":             "write {id}",
		"/users/<int:id>":         "write {id}",
		"/users/*":                "write {name} for one segment, {name...} for the rest of the path, %2A for the character",
		"/users/**":               "write {name} for one segment",
		"/users/a*":               "write {name} for one segment",
		"/users/{id?}":            "cannot be optional: write two rows, one with {id} and one without it",
		"/users/{+path}":          "write {path...} for the rest of the path, {path} for one segment",
		"/users/{path*}":          "write {path...} for the rest of the path",
		"/users/{path..}":         "write {path...} for the rest of the path",
		"/users/{path:path}":      "write {path...} for the rest of the path",
		"/users/{id:[0-9]+}":      "write {id}, and compare its text in a rule",
		"/users/{id:int}":         "write {id}, and compare its text in a rule",
		"/users/{name=users/*}":   "write users/{name} instead",
		"/users/{name=users/*}/x": "write users/{name} instead",
		"/users/{id}{?page}":      "an operator of URI templates",
		"/users{?page}":           "an operator of URI templates",
		"/users/<path:p>":         "write {p...}",
		"/users/<int:id>.json":    "write {id}",
		"/users/:id.json":         "write {id}; for a literal colon write %3A",
		"/users/{id:.*}":          "write {id...}",
		"/users/{}":               "a name consists of letters",
		"/users/{a b}":            "a name consists of letters",
		"/users/{a,b}":            "a name consists of letters",
		"/users/{...}":            "is not a parameter",
		"/users/{id":              "a { without a }",
		"/users/id}":              "a } without a {",
		"/users/{{id}}":           "a { in a parameter",
		"/users/{a}{b}":           "two parameters side by side",
		"/users/{a...}/posts":     "the rest of the path, so nothing can follow it",
		"/users/{a...}/":          "the rest of the path, so nothing can follow it",
		"/users/x{a...}":          "text around the rest",
		"/users/{a...}.json":      "text around the rest",
	} {
		_, err := route.Parse(pattern)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, not %q", pattern, err, want)
		}
	}
}

// Each pattern matches all paths in the field `matching`, and no path in the field `others`.
func TestPatternMatches(t *testing.T) {
	for _, c := range []struct {
		pattern          string
		matching, others string // decoded paths, separated by commas
	}{
		{"/", "/", "/a,//"},
		{"/a/", "/a/", "/a,/a/b"},
		{"/users/{userId}", "/users/7,/users/a.b:c", "/users/,/users,/users/7/,/users/7/x,/Users/7"},
		{"/e/{enterprise-team}/x", "/e/7/x", "/e//x,/e/x"},
		{"/r/{id}.json", "/r/7.json,/r/.json.json", "/r/.json,/r/7.jsonx,/r/7,/r/7.JSON"},
		{"/r/{id}:refund", "/r/7:refund", "/r/:refund,/r/7"},
		{"/r/v{id}", "/r/v1,/r/vv", "/r/v,/r/1"},
		{"/c/{base}...{head}", "/c/a...b,/c/a.....b,/c/a...b...c", "/c/...b,/c/a...,/c/a..b"},
		{"/odata/Users('{id}')", "/odata/Users('7')", "/odata/Users(''),/odata/Users(7)"},
		{"/f/{path...}", "/f/a,/f/a/b,/f/a/b/,/f/a/", "/f/,/f,/f//a"},
		{"/%61/{x}.%6A", "/a/7.j", "/%61/7.j"},
		{"/x/%7Bid%7D", "/x/{id}", "/x/7"},
		{"/x/%2A", "/x/*", "/x/7"},
		{"/c+ages/caf%C3%A9", "/c+ages/café", "/c ages/café"},
		{"/$metadata", "/$metadata", "/metadata"},
		{"/x/a.b(c)", "/x/a.b(c)", "/x/aXb(c),/x/a.bc"},
	} {
		p, err := route.Parse(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		var x route.Index
		x.Add("GET", p, 1)
		for _, path := range strings.Split(c.matching, ",") {
			if _, ok := x.Find("GET", path); !ok {
				t.Errorf("%s does not match %s", c.pattern, path)
			}
		}
		for _, path := range strings.Split(c.others, ",") {
			if _, ok := x.Find("GET", path); ok {
				t.Errorf("%s matches %s", c.pattern, path)
			}
		}
	}
}
