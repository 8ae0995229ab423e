package policies

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictyaml"
)

// Table is what apis/NAME/data.yaml says of one API.
type Table struct {
	// Scopes: level → scope → description.
	Scopes map[Level]map[string]string `yaml:"scopes" json:"scopes"`
	// Overrides: level → scopes that each stand for all scopes of a route of that level.
	Overrides map[Level][]string `yaml:"overrides" json:"overrides"`
	// Roles: role of a member → scopes that it allows in the workspace.
	Roles map[string][]string `yaml:"roles" json:"roles"`
	// Parameters are the special characters that a {parameter} may hold. Default: none.
	Parameters authz.Parameters `yaml:"parameters" json:"parameters"`
	Routes     []Route          `yaml:"routes" json:"routes"`
}

// Level is what a route or a scope is about: what a workspace holds, or the user as such.
type Level string

// The levels. A route that names none is of the workspace.
const (
	LevelWorkspace Level = "workspace"
	LevelUser      Level = "user"
)

// Route is a row of the table.
type Route struct {
	Method string `yaml:"method" json:"method"`
	// Path is a pattern: a segment {name} matches one non-empty segment, every other one the segments of the same text,
	// however either is escaped.
	Path string `yaml:"path" json:"path"`
	// Scopes are all needed.
	Scopes []string `yaml:"scopes" json:"scopes"`
	// Public routes need no credential, and name no scopes.
	Public bool  `yaml:"public" json:"public"`
	Level  Level `yaml:"level" json:"level"`
	// Line of the row in its file.
	Line int `yaml:"-" json:"-"`

	segments []string // of the path, decoded; anyText for a parameter
}

// level is the route's level, with the default filled in.
func (r Route) level() Level { return cmp.Or(r.Level, LevelWorkspace) }

// Tables reads and checks the tables of every API under apis/, by the API's name.
func Tables(policy fs.FS) (map[string]Table, error) {
	files, err := fs.Glob(policy, "apis/*/data.yaml")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("there is no apis/NAME/data.yaml")
	}
	tables := make(map[string]Table, len(files))
	for _, file := range files {
		text, err := fs.ReadFile(policy, file)
		if err != nil {
			return nil, err
		}
		table, err := parseTable(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		tables[path.Base(path.Dir(file))] = table
	}
	return tables, nil
}

// Scope reports the level of a scope of the catalogue.
func (t Table) Scope(name string) (Level, bool) {
	for level, scopes := range t.Scopes {
		if _, ok := scopes[name]; ok {
			return level, true
		}
	}
	return "", false
}

// ScopeNames lists the catalogue of the given levels, sorted.
func (t Table) ScopeNames(levels ...Level) []string {
	var names []string
	for _, level := range levels {
		names = slices.AppendSeq(names, maps.Keys(t.Scopes[level]))
	}
	slices.Sort(names)
	return names
}

func parseTable(text []byte) (Table, error) {
	var t Table
	if err := strictyaml.Decode(text, &t); err != nil {
		return t, err
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return t, err
	}
	if line := emptyValue(&tree); line > 0 {
		return t, fmt.Errorf("line %d: a key without a value", line)
	}
	if err := t.agreesWithOPA(text); err != nil {
		return t, err
	}
	if err := t.checkScopes(); err != nil {
		return t, err
	}
	if err := t.Parameters.Validate(); err != nil {
		return t, err
	}
	lines := routeLines(&tree)
	if len(lines) != len(t.Routes) {
		return t, errors.New("routes: write every row out, without aliases and merge keys")
	}
	shapes := make(map[string]int, len(t.Routes))
	for i, line := range lines {
		r := &t.Routes[i]
		r.Line = line
		segments, err := t.checkRoute(*r)
		if err != nil {
			return t, fmt.Errorf("line %d: %w", line, err)
		}
		r.segments = segments
		shape := r.Method + " " + authz.JoinSegments(segments)
		if before, ok := shapes[shape]; ok {
			return t, fmt.Errorf("line %d: %s %s has the shape of line %d: nothing tells them apart",
				line, r.Method, r.Path, before)
		}
		shapes[shape] = line
	}
	return t, nil
}

var (
	methodForm = regexp.MustCompile(`^[A-Z]+(-[A-Z]+)*$`)
	paramForm  = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\}$`)
)

// emptyValue finds the line of a null, which would be one thing to Go and another to Rego.
func emptyValue(n *yaml.Node) int {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return n.Line
	}
	for _, child := range n.Content {
		if line := emptyValue(child); line > 0 {
			return line
		}
	}
	return 0
}

// agreesWithOPA refuses a table that OPA reads otherwise: where a boolean is expected, this decoder takes no and off for
// one, and OPA for a text, which is neither true nor false. What was checked here must be what decides.
func (t Table) agreesWithOPA(text []byte) error {
	const advice = "write true or false for a boolean, and a text in quotes"
	var document any
	if err := util.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("opa cannot read the file: %w", err)
	}
	if document == nil {
		return nil
	}
	asJSON, err := json.Marshal(document)
	if err != nil {
		return err
	}
	var asOPA Table
	if err := json.Unmarshal(asJSON, &asOPA); err != nil {
		return errors.New("opa takes a value for another type than the one it should have: " + advice)
	}
	if !reflect.DeepEqual(asOPA, t) {
		return errors.New("opa reads a value as another one: " + advice)
	}
	return nil
}

// routeLines gives the line of each row: the typed decoding, which knows the keys, does not keep them.
func routeLines(tree *yaml.Node) []int {
	if len(tree.Content) == 0 {
		return nil
	}
	var lines []int
	top := tree.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "routes" {
			for _, row := range top[i+1].Content {
				lines = append(lines, row.Line)
			}
		}
	}
	return lines
}

func (t Table) checkScopes() error {
	levels := make(map[string]Level)
	for _, level := range slices.Sorted(maps.Keys(t.Scopes)) {
		if level != LevelWorkspace && level != LevelUser {
			return fmt.Errorf("scopes: the level %q is neither workspace nor user", level)
		}
		for scope := range t.Scopes[level] {
			if !authz.ValidScope(scope) {
				return fmt.Errorf("scopes: %q has characters that a scope cannot have", scope)
			}
			if other, ok := levels[scope]; ok {
				return fmt.Errorf("scopes: %s is of the level %s and of %s", scope, other, level)
			}
			levels[scope] = level
		}
	}
	for level, scopes := range t.Overrides {
		if level != LevelWorkspace && level != LevelUser {
			return fmt.Errorf("overrides: the level %q is neither workspace nor user", level)
		}
		if err := t.known(scopes); err != nil {
			return fmt.Errorf("overrides: %w", err)
		}
	}
	for role, scopes := range t.Roles {
		if err := t.known(scopes); err != nil {
			return fmt.Errorf("roles: %s: %w", role, err)
		}
	}
	return nil
}

func (t Table) known(scopes []string) error {
	for _, scope := range scopes {
		if _, ok := t.Scope(scope); !ok {
			return fmt.Errorf("the scope %q is not among scopes", scope)
		}
	}
	return nil
}

func (t Table) checkRoute(r Route) ([]string, error) {
	level := r.level()
	switch {
	case !methodForm.MatchString(r.Method):
		return nil, fmt.Errorf("the method %q is not one in capitals", r.Method)
	case level != LevelWorkspace && level != LevelUser:
		return nil, fmt.Errorf("the level %q is neither workspace nor user", r.Level)
	case r.Public && len(r.Scopes) > 0:
		return nil, errors.New("a public route needs no scopes")
	case !r.Public && len(r.Scopes) == 0:
		return nil, errors.New("name the scopes that the route needs, or make it public")
	}
	if err := t.known(r.Scopes); err != nil {
		return nil, err
	}
	for _, scope := range r.Scopes {
		if of, _ := t.Scope(scope); of != level {
			return nil, fmt.Errorf("the scope %s is of the level %s, the route of %s", scope, of, level)
		}
	}
	return parsePattern(r.Path)
}

// anyText stands for a parameter among the segments of a pattern. No literal is it.
const anyText = "*"

// parsePattern decodes the segments of a pattern. It refuses what OPA's glob.match would read as more than a literal, and
// what no request can match.
func parsePattern(pattern string) ([]string, error) {
	raw := strings.Split(pattern, "/")
	parameters := make([]bool, len(raw))
	for i, s := range raw {
		if parameters[i] = paramForm.MatchString(s); parameters[i] {
			raw[i] = "x"
		} else if strings.ContainsAny(s, "{}") {
			return nil, fmt.Errorf("the path %q: %q is no parameter: one is a whole segment, as {id}", pattern, s)
		}
	}
	segments, err := authz.Segments(strings.Join(raw, "/"), authz.Parameters{})
	if err != nil {
		return nil, fmt.Errorf("the path %q matches no request: %w", pattern, err)
	}
	for i, s := range segments {
		if strings.ContainsAny(s, `*?[]{}!\`) {
			return nil, fmt.Errorf("the path %q: %q has one of * ? [ ] { } ! \\, which a literal segment cannot", pattern, s)
		}
		if parameters[i+1] {
			segments[i] = anyText
		}
	}
	return segments, nil
}
