// Package table reads and checks the table of an API: its scopes and its routes.
package table

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/route"
)

// Table is the content of apis/NAME/data.yaml for one API.
type Table struct {
	// Scopes is the catalogue, which defines all scopes: level → scope → description.
	Scopes map[Level]map[string]string `yaml:"scopes" json:"scopes"`
	// Overrides maps each level to scopes. A scope of the level workspace satisfies the required scopes of every workspace-level
	// route. A scope of the level user satisfies the required scopes of every route, for a user's credential. On a
	// workspace-level route, the user's role still limits the user.
	Overrides map[Level][]string `yaml:"overrides" json:"overrides"`
	// Roles maps the role of a member to the scopes that the role allows in the workspace.
	Roles map[string][]string `yaml:"roles" json:"roles"`
	// Implies maps a scope to the scopes that it includes. A name that ends in * means every scope of the catalogue with that
	// prefix.
	Implies map[string][]string `yaml:"implies" json:"implies"`
	// Presets are choices of scopes for new tokens, in the order in which users see them.
	Presets []Preset `yaml:"presets" json:"presets"`
	// HeadWithGet means that each row for GET also matches HEAD.
	HeadWithGet bool `yaml:"head_with_get" json:"head_with_get"`
	// Parameters are the special characters that a {parameter} may contain. Default: none.
	Parameters target.Parameters `yaml:"parameters" json:"parameters"`
	Routes     []Route           `yaml:"routes" json:"routes"`

	index *route.Index // finds the position of the matching row in Routes
}

// Index returns the index of the routes. For a request, it finds the position of the matching row in Routes.
func (t Table) Index() *route.Index { return t.index }

// Level says what a route or a scope gives access to: the content of a workspace, or data of the user.
type Level string

// These are the levels. A route without a level has LevelWorkspace.
const (
	LevelWorkspace Level = "workspace"
	LevelUser      Level = "user"
)

// Route is a row of the table.
type Route struct {
	// Method is in capitals, or [route.AnyMethod].
	Method string `yaml:"method" json:"method"`
	// Path is a pattern: see [route.Pattern].
	Path string `yaml:"path" json:"path"`
	// GRPC is a method, package.Service/Method, or all methods of a service, package.Service/*. It replaces Method and Path.
	GRPC string `yaml:"grpc" json:"grpc"`
	// Scopes are the scopes that the route requires. All of them are necessary.
	Scopes []string `yaml:"scopes" json:"scopes"`
	// At least one scope of AnyOf is required, in addition to Scopes.
	AnyOf []string `yaml:"any_of" json:"any_of"`
	// Public routes need no credential, and must not have scopes.
	Public bool  `yaml:"public" json:"public"`
	Level  Level `yaml:"level" json:"level"`
	// Line is the line number of the row in its file.
	Line int `yaml:"-" json:"-"`

	pattern route.Pattern
}

// Name returns the name that decisions use for the route: its method and its path.
func (r Route) Name() string { return r.method() + " " + r.path() }

// method returns the HTTP method of the requests.
func (r Route) method() string {
	if r.GRPC != "" {
		return "POST" // required by the specification "gRPC over HTTP2", section "Requests"
	}
	return r.Method
}

// path returns the pattern of the requests' paths.
func (r Route) path() string {
	if r.GRPC != "" {
		return "/" + strings.Replace(r.GRPC, "*", "{method}", 1)
	}
	return r.Path
}

// level returns the route's level. If the row has no level, it returns LevelWorkspace.
func (r Route) level() Level { return cmp.Or(r.Level, LevelWorkspace) }

// Read checks the tables of all APIs under apis/, and returns them by the name of the API. The error has a line for each problem.
func Read(policy folder.Folder) (map[string]Table, error) {
	var all fault.Errors
	tables := make(map[string]Table)
	for _, file := range policy.Files {
		if isTable, _ := path.Match("apis/*/data.yaml", file.Name); !isTable {
			continue
		}
		table, err := parseTable(file.Text)
		all.AddFile(file.Name, err)
		tables[path.Base(path.Dir(file.Name))] = table
	}
	if len(tables) == 0 {
		return nil, errors.New("there is no table: create apis/NAME/data.yaml for your API")
	}
	return tables, all.Err()
}

// parseTable parses a table. The error lists the problems in the order of their lines. It contains at most one problem for each
// row, because further problems can be consequences of the first.
func parseTable(text []byte) (Table, error) {
	var t Table
	var all fault.Errors
	decoded := strictyaml.Decode(text, &t)
	all.AddFile("", decoded)
	var tree yaml.Node
	if yaml.Unmarshal(text, &tree) != nil {
		if unquoted := unquotedBraces(text); len(unquoted) > 0 {
			return t, unquoted.Err()
		}
		return t, all.Err()
	}
	for _, line := range emptyValues(&tree) {
		all.AddLine(line, errors.New("this key has no value"))
	}
	t.checkScopes(func(err error, keys ...string) { all.AddLine(fault.LineOf(&tree, keys...), err) })
	all.AddLine(fault.LineOf(&tree, "parameters"), t.Parameters.Validate())
	rows, presets := listItems(&tree, "routes"), listItems(&tree, "presets")
	if len(rows) != len(t.Routes) {
		if len(all) == 0 { // if all is not empty, it already contains the invalid row
			all.AddLine(fault.LineOf(&tree, "routes"), errors.New("routes: write each row directly into the list, without aliases and merge keys"))
		}
		return t, all.Err()
	}
	switch {
	case len(presets) == len(t.Presets):
		t.checkPresets(presets, all.AddLine)
	case len(all) == 0:
		all.AddLine(fault.LineOf(&tree, "presets"), errors.New("presets: write each preset directly into the list, without aliases and merge keys"))
	}
	t.checkAgainstOPA(text, func(row int, err error) {
		switch {
		case row >= 0 && !all.Within(rows[row]):
			all.AddLine(rows[row].Line, err)
		case row < 0 && decoded == nil:
			all.AddLine(0, err)
		}
	})
	t.index = &route.Index{HeadWithGet: t.HeadWithGet}
	for i, row := range rows {
		r := &t.Routes[i]
		r.Line = row.Line
		all.AddLine(row.Line, emptyText(row))
		if all.Within(row) {
			continue
		}
		var err error
		if r.pattern, err = t.checkRoute(*r); err != nil {
			all.AddLine(row.Line, err)
			continue
		}
		if before, ok := t.index.Add(r.method(), r.pattern, i); !ok {
			all.AddLine(row.Line, fmt.Errorf("%s matches the same requests as line %d: remove one of them", r.Name(), t.Routes[before].Line))
		}
	}
	for _, pair := range t.index.Ambiguous() {
		a, b := t.Routes[pair[0]], t.Routes[pair[1]]
		all.AddLine(b.Line, fmt.Errorf("%s and line %d, %s, match the same path, and neither has precedence: add literal text to one of them",
			b.Name(), a.Line, a.Name()))
	}
	return t, all.Err()
}

var (
	methodForm   = regexp.MustCompile(`^[A-Z]+(-[A-Z]+)*$`)
	unquotedForm = regexp.MustCompile(`^\s*-\s*\{.*\bpath:\s*(/[^"',\s]*\{[^"',\s]*\}[^"',\s}]*)`)
	grpcForm     = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/([A-Za-z_]\w*|\*)$`)
)

// unquotedBraces finds the most likely cause of a YAML syntax error: a path with braces that has no quotes. The YAML parser often
// reports the wrong line for this error.
func unquotedBraces(text []byte) fault.Errors {
	var all fault.Errors
	for i, line := range strings.Split(string(text), "\n") {
		if path := unquotedForm.FindStringSubmatch(line); path != nil {
			all.AddLine(i+1, fmt.Errorf("a path with braces needs quotes in a row like this: path: %q", path[1]))
		}
	}
	return all
}

// emptyValues returns the lines of keys with a null value. Go and Rego would interpret such a key differently. It ignores null
// items of lists, because strictyaml reports these.
func emptyValues(n *yaml.Node) []int {
	var lines []int
	for _, child := range n.Content {
		if child.Kind == yaml.ScalarNode && child.ShortTag() == "!!null" && n.Kind != yaml.SequenceNode {
			lines = append(lines, child.Line)
		}
		lines = append(lines, emptyValues(child)...)
	}
	return lines
}

// emptyText refuses an empty string in a row: Go would treat the key as missing, but Rego would treat it as present.
func emptyText(row *yaml.Node) error {
	for pair := range slices.Chunk(row.Content, 2) {
		if value := pair[len(pair)-1]; value.Kind == yaml.ScalarNode && value.Value == "" && value.ShortTag() == "!!str" {
			return fmt.Errorf("%s is empty: leave it out", pair[0].Value)
		}
	}
	return nil
}

// checkAgainstOPA finds values that OPA reads differently from this package, because OPA must decide with the values that this
// package has checked. For example, this package's decoder reads the booleans "no" and "off" as false. OPA reads them as strings,
// which are neither true nor false. The parameter `refuse` is a function that receives the row's position and the error. For an
// error outside of the rows, the position is -1.
func (t Table) checkAgainstOPA(text []byte, refuse func(row int, err error)) {
	var document map[string]any
	if err := util.Unmarshal(text, &document); err != nil {
		refuse(-1, fmt.Errorf("opa cannot read the file: %w", err))
		return
	}
	rows, _ := document["routes"].([]any)
	delete(document, "routes")
	rest := t
	rest.Routes = nil
	refuse(-1, compareWithOPA(document, rest))
	if len(rows) != len(t.Routes) {
		refuse(-1, fmt.Errorf("opa reads %d routes instead of %d: write each row directly into the list", len(rows), len(t.Routes)))
		return
	}
	for i, row := range rows {
		refuse(i, compareWithOPA(row, t.Routes[i]))
	}
}

// compareWithOPA compares a value that OPA has read with the value that this package has decoded.
func compareWithOPA[T any](fromOPA any, decoded T) error {
	const advice = "write booleans as true or false, and put strings in quotes"
	asJSON, err := json.Marshal(fromOPA)
	if err != nil {
		return err
	}
	var converted T
	if err := json.Unmarshal(asJSON, &converted); err != nil {
		return errors.New("opa and keywicket read a value here as different types: " + advice)
	}
	if !reflect.DeepEqual(converted, decoded) {
		return errors.New("opa and keywicket read a value here differently: " + advice)
	}
	return nil
}

// listItems returns the items of a list at the top of the file as YAML nodes, because only the nodes have line numbers. The type Table
// has none.
func listItems(tree *yaml.Node, key string) []*yaml.Node {
	if len(tree.Content) == 0 {
		return nil
	}
	top := tree.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == key {
			return top[i+1].Content
		}
	}
	return nil
}

// checkRoute checks a row, and returns the pattern of its path.
func (t Table) checkRoute(r Route) (route.Pattern, error) {
	level := r.level()
	switch {
	case r.GRPC != "" && (r.Method != "" || r.Path != ""):
		return route.Pattern{}, errors.New("grpc replaces method and path: leave them out")
	case r.GRPC != "" && !grpcForm.MatchString(r.GRPC):
		return route.Pattern{}, fmt.Errorf("grpc: %q is neither package.Service/Method nor package.Service/*", r.GRPC)
	case r.method() != route.AnyMethod && !methodForm.MatchString(r.method()):
		return route.Pattern{}, fmt.Errorf("the method %q is invalid: write it in capitals, or write * for any method", r.Method)
	case level != LevelWorkspace && level != LevelUser:
		return route.Pattern{}, fmt.Errorf("the level %q is neither workspace nor user", r.Level)
	case r.Public && len(r.Scopes)+len(r.AnyOf) > 0:
		return route.Pattern{}, errors.New("a public route must not have scopes: remove them")
	case !r.Public && len(r.Scopes)+len(r.AnyOf) == 0:
		return route.Pattern{}, errors.New("list the scopes that the route requires, or write public: true")
	}
	for _, scopes := range [][]string{r.Scopes, r.AnyOf} {
		if err := t.checkKnown(scopes); err != nil {
			return route.Pattern{}, err
		}
		for _, scope := range scopes {
			if scopeLevel, _ := t.Scope(scope); scopeLevel != level {
				return route.Pattern{}, fmt.Errorf("the scope %s has the level %s, but the route has the level %s", scope, scopeLevel, level)
			}
		}
	}
	return route.Parse(r.path())
}

// HasNewForms reports whether the table uses keys or patterns that the Rego rules of an earlier keywicket version do not support.
func (t Table) HasNewForms() bool {
	return t.HeadWithGet || len(t.Implies) > 0 || slices.ContainsFunc(t.Routes, func(r Route) bool {
		return r.GRPC != "" || r.Method == route.AnyMethod || len(r.AnyOf) > 0 || !r.pattern.WholeParameters()
	})
}

// Sample returns a request that the row matches. Another row may also match this request, and have precedence.
func (r Route) Sample() (method, path string) {
	method = r.method()
	if method == route.AnyMethod {
		method = "GET"
	}
	return method, r.pattern.Sample()
}
