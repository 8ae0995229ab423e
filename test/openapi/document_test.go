package openapi

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/modulefile"
)

// document is the part of an OpenAPI document that a table needs. If a path has a key that is not a method, decoding fails.
// Neither document has such a path.
type document struct {
	Paths      map[string]map[string]endpoint
	Components struct {
		Parameters map[string]parameter
		Schemas    map[string]json.RawMessage
	}
}

type endpoint struct {
	Tags       []string
	Parameters []parameter
}

type parameter struct {
	Ref    string `json:"$ref"`
	Name   string
	In     string
	Schema schema
	// MultiSegment is an extension of GitHub: the value may contain slashes.
	MultiSegment bool `json:"x-multi-segment"`
}

type schema struct {
	Ref       string `json:"$ref"`
	Type      string
	Enum      []string
	Pattern   string
	MaxLength int
	OneOf     []schema
}

func readDocument(t *testing.T, name string) document {
	t.Helper()
	file, ok := modulefile.Find(".tools/openapi/" + name + ".json")
	if !ok {
		t.Fatalf(`no OpenAPI document of %s: run "make .tools/openapi"`, name)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// operation is a path and a method of a document, as a row of a table.
type operation struct {
	method, scope string
	segments      []string          // segments of the row's path
	schemas       map[string]schema // schemas of the path's parameters
	narrowed      bool              // a parameter may contain slashes in the document, but not in the table
}

func (o operation) path() string { return "/" + strings.Join(o.segments, "/") }

func (o operation) name() string { return o.method + " " + o.path() }

// parameterForm matches a parameter of a path.
var parameterForm = regexp.MustCompile(`\{[^{}]*\}`)

// isParameter reports whether the segment is one parameter.
func isParameter(segment string) bool {
	return strings.HasPrefix(segment, "{") && strings.Index(segment, "}") == len(segment)-1
}

// isRest reports whether the segment matches the rest of the path, such as {path...}.
func isRest(segment string) bool { return strings.HasSuffix(segment, "...}") }

// operations returns all operations of a document, in reverse order of their names. So a parameter comes before the literal text
// that has priority over it.
func (d document) operations(t *testing.T) []operation {
	t.Helper()
	var all []operation
	for path, methods := range d.Paths {
		for method, e := range methods {
			o, err := d.operation(strings.ToUpper(method), path, e)
			if err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(b.name(), a.name()) })
	return all
}

func (d document) operation(method, path string, e endpoint) (operation, error) {
	o := operation{method: method, segments: strings.Split(path[1:], "/"), schemas: make(map[string]schema)}
	last := &o.segments[len(o.segments)-1]
	for _, p := range e.Parameters {
		if name, ok := strings.CutPrefix(p.Ref, "#/components/parameters/"); ok {
			p = d.Components.Parameters[name]
		}
		if p.In != "path" {
			continue
		}
		if name, ok := strings.CutPrefix(p.Schema.Ref, "#/components/schemas/"); ok {
			if err := json.Unmarshal(d.Components.Schemas[name], &p.Schema); err != nil {
				return o, err
			}
		}
		switch {
		case p.MultiSegment && *last == "{"+p.Name+"}":
			p.Name += "..."
			*last = "{" + p.Name + "}"
		case p.MultiSegment: // a parameter that may contain slashes must be the last segment of a path
			o.narrowed = true
		}
		o.schemas["{"+p.Name+"}"] = p.Schema
	}
	for _, p := range parameterForm.FindAllString(o.path(), -1) {
		if _, ok := o.schemas[p]; !ok {
			return o, fmt.Errorf("the parameter %s is not declared", p)
		}
	}
	area := o.segments[min(1, len(o.segments)-1)] // after /v1
	if len(e.Tags) > 0 {
		area = e.Tags[0]
	}
	o.scope = area + ":write"
	if method == "GET" || method == "HEAD" {
		o.scope = area + ":read"
	}
	return o, nil
}
