package policies

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/policies/route"
)

// Table is what apis/NAME/data.yaml says of one API.
type Table struct {
	// Scopes: level → scope → description.
	Scopes map[Level]map[string]string `yaml:"scopes" json:"scopes"`
	// Overrides: level → scopes that each stand for all scopes of a route of that level.
	Overrides map[Level][]string `yaml:"overrides" json:"overrides"`
	// Roles: role of a member → scopes that it allows in the workspace.
	Roles map[string][]string `yaml:"roles" json:"roles"`
	// Implies: scope → the scopes that it includes. A name that ends in * stands for every scope of the catalogue
	// that starts with the text in front of it.
	Implies map[string][]string `yaml:"implies" json:"implies"`
	// HeadWithGet says that a row for GET is for HEAD too.
	HeadWithGet bool `yaml:"head_with_get" json:"head_with_get"`
	// Parameters are the special characters that a {parameter} may hold. Default: none.
	Parameters authz.Parameters `yaml:"parameters" json:"parameters"`
	Routes     []Route          `yaml:"routes" json:"routes"`

	index *route.Index // of Routes, by their places
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
	// Method is in capitals, or [route.AnyMethod].
	Method string `yaml:"method" json:"method"`
	// Path is a pattern: see [route.Pattern].
	Path string `yaml:"path" json:"path"`
	// GRPC is a method, package.Service/Method, or all methods of a service, package.Service/*. It stands for Method and Path.
	GRPC string `yaml:"grpc" json:"grpc"`
	// Scopes are all needed.
	Scopes []string `yaml:"scopes" json:"scopes"`
	// AnyOf are scopes of which one is needed, besides Scopes.
	AnyOf []string `yaml:"any_of" json:"any_of"`
	// Public routes need no credential, and name no scopes.
	Public bool  `yaml:"public" json:"public"`
	Level  Level `yaml:"level" json:"level"`
	// Line of the row in its file.
	Line int `yaml:"-" json:"-"`

	pattern route.Pattern
}

// Name is the route's in decisions: method and path.
func (r Route) Name() string { return r.method() + " " + r.path() }

// method is that of the requests.
func (r Route) method() string {
	if r.GRPC != "" {
		return "POST" // gRPC over HTTP/2, "Requests"
	}
	return r.Method
}

func (r Route) path() string {
	if r.GRPC != "" {
		return "/" + strings.Replace(r.GRPC, "*", "{method}", 1)
	}
	return r.Path
}

// level is the route's level, with the default filled in.
func (r Route) level() Level { return cmp.Or(r.Level, LevelWorkspace) }

// Tables reads and checks the tables of every API under apis/, by the API's name. The error has a line for each thing that
// is wrong.
func Tables(policy fs.FS) (map[string]Table, error) {
	if err := readable(policy); err != nil {
		return nil, err
	}
	files, err := fs.Glob(policy, "apis/*/data.yaml")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("there is no apis/NAME/data.yaml")
	}
	var all faults
	tables := make(map[string]Table, len(files))
	for _, file := range files {
		text, err := fs.ReadFile(policy, file)
		if err != nil {
			all.in(file, err)
			continue
		}
		table, err := parseTable(text)
		all.in(file, err)
		tables[path.Base(path.Dir(file))] = table
	}
	return tables, all.err()
}

// parseTable collects the errors of a table, by line. A row has one at most: where its keys are wrong, what else is wrong
// with it can be the consequence.
func parseTable(text []byte) (Table, error) {
	var t Table
	var all faults
	decoded := strictyaml.Decode(text, &t)
	all.in("", decoded)
	var tree yaml.Node
	if yaml.Unmarshal(text, &tree) != nil {
		if bare := bareBraces(text); len(bare) > 0 {
			return t, bare.err()
		}
		return t, all.err()
	}
	for _, line := range emptyValues(&tree) {
		all.at(line, errors.New("a key without a value"))
	}
	t.checkScopes(func(err error, where ...string) { all.at(lineOf(&tree, where...), err) })
	all.at(lineOf(&tree, "parameters"), t.Parameters.Validate())
	rows := routeRows(&tree)
	if len(rows) != len(t.Routes) {
		if len(all) == 0 { // otherwise a row is none, which was told
			all.at(lineOf(&tree, "routes"), errors.New("routes: write every row out, without aliases and merge keys"))
		}
		return t, all.err()
	}
	t.agreesWithOPA(text, func(row int, err error) {
		switch {
		case row >= 0 && !all.within(rows[row]):
			all.at(rows[row].Line, err)
		case row < 0 && decoded == nil:
			all.at(0, err)
		}
	})
	t.index = &route.Index{HeadWithGet: t.HeadWithGet}
	for i, row := range rows {
		r := &t.Routes[i]
		r.Line = row.Line
		all.at(row.Line, emptyText(row))
		if all.within(row) {
			continue
		}
		var err error
		if r.pattern, err = t.checkRoute(*r); err != nil {
			all.at(row.Line, err)
			continue
		}
		if before, ok := t.index.Add(r.method(), r.pattern, i); !ok {
			all.at(row.Line, fmt.Errorf("%s has the shape of line %d: nothing tells them apart", r.Name(), t.Routes[before].Line))
		}
	}
	for _, pair := range t.index.Unordered() {
		a, b := t.Routes[pair[0]], t.Routes[pair[1]]
		all.at(b.Line, fmt.Errorf("%s and line %d, %s, match one path, and neither goes first: add text that tells them apart",
			b.Name(), a.Line, a.Name()))
	}
	return t, all.err()
}

var (
	methodForm = regexp.MustCompile(`^[A-Z]+(-[A-Z]+)*$`)
	bareForm   = regexp.MustCompile(`^\s*-\s*\{.*\bpath:\s*(/[^"',\s]*\{[^"',\s]*\}[^"',\s}]*)`)
	grpcForm   = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*/([A-Za-z_]\w*|\*)$`)
)

// bareBraces finds the likeliest cause of a syntax error, with its line, which YAML's own error often misses.
func bareBraces(text []byte) faults {
	var all faults
	for i, line := range strings.Split(string(text), "\n") {
		if path := bareForm.FindStringSubmatch(line); path != nil {
			all.at(i+1, fmt.Errorf("a path with braces needs quotes in a row like this: path: %q", path[1]))
		}
	}
	return all
}

// emptyValues are the lines of keys with a null, which would be one thing to Go and another to Rego. One in a list is told
// by strictyaml.
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

// emptyText refuses an empty text in a row, which would be a key that is left out to Go and a value to Rego.
func emptyText(row *yaml.Node) error {
	for pair := range slices.Chunk(row.Content, 2) {
		if value := pair[len(pair)-1]; value.Kind == yaml.ScalarNode && value.Value == "" && value.ShortTag() == "!!str" {
			return fmt.Errorf("%s is empty: leave it out", pair[0].Value)
		}
	}
	return nil
}

// agreesWithOPA refuses what OPA reads otherwise: where a boolean is expected, this decoder takes no and off for one, and
// OPA for a text, which is neither true nor false. What was checked here must be what decides. It names the row by its
// number; -1 is the rest of the table.
func (t Table) agreesWithOPA(text []byte, refuse func(row int, err error)) {
	var document map[string]any
	if err := util.Unmarshal(text, &document); err != nil {
		refuse(-1, fmt.Errorf("opa cannot read the file: %w", err))
		return
	}
	rows, _ := document["routes"].([]any)
	delete(document, "routes")
	rest := t
	rest.Routes = nil
	refuse(-1, agrees(document, rest))
	if len(rows) != len(t.Routes) {
		refuse(-1, fmt.Errorf("opa reads %d routes instead of %d: write every row out", len(rows), len(t.Routes)))
		return
	}
	for i, row := range rows {
		refuse(i, agrees(row, t.Routes[i]))
	}
}

func agrees[T any](opas any, mine T) error {
	const advice = "write true or false for a boolean, and a text in quotes"
	asJSON, err := json.Marshal(opas)
	if err != nil {
		return err
	}
	var same T
	if err := json.Unmarshal(asJSON, &same); err != nil {
		return errors.New("opa takes a value for another type than the one it should have: " + advice)
	}
	if !reflect.DeepEqual(same, mine) {
		return errors.New("opa reads a value as another one: " + advice)
	}
	return nil
}

// routeRows are the rows as nodes, which have lines: the typed decoding, which knows the keys, does not keep them.
func routeRows(tree *yaml.Node) []*yaml.Node {
	if len(tree.Content) == 0 {
		return nil
	}
	top := tree.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "routes" {
			return top[i+1].Content
		}
	}
	return nil
}

// lineOf returns the line of a key, or of an item of a list, below others; as far as they are there.
func lineOf(tree *yaml.Node, where ...string) int {
	line := 0
	if len(tree.Content) == 0 {
		return line
	}
	node := tree.Content[0]
	for _, name := range where {
		step := 1
		if node.Kind == yaml.MappingNode {
			step = 2
		}
		i := 0
		for i < len(node.Content) && node.Content[i].Value != name {
			i += step
		}
		if i >= len(node.Content) {
			break
		}
		line = node.Content[i].Line
		node = node.Content[i+step-1]
	}
	return line
}

func (t Table) checkRoute(r Route) (route.Pattern, error) {
	level := r.level()
	switch {
	case r.GRPC != "" && (r.Method != "" || r.Path != ""):
		return route.Pattern{}, errors.New("grpc stands for method and path: leave these out")
	case r.GRPC != "" && !grpcForm.MatchString(r.GRPC):
		return route.Pattern{}, fmt.Errorf("grpc: %q is neither package.Service/Method nor package.Service/*", r.GRPC)
	case r.method() != route.AnyMethod && !methodForm.MatchString(r.method()):
		return route.Pattern{}, fmt.Errorf("the method %q is not one in capitals, nor * for any", r.Method)
	case level != LevelWorkspace && level != LevelUser:
		return route.Pattern{}, fmt.Errorf("the level %q is neither workspace nor user", r.Level)
	case r.Public && len(r.Scopes)+len(r.AnyOf) > 0:
		return route.Pattern{}, errors.New("a public route needs no scopes")
	case !r.Public && len(r.Scopes)+len(r.AnyOf) == 0:
		return route.Pattern{}, errors.New("name the scopes that the route needs, or make it public")
	}
	for _, scopes := range [][]string{r.Scopes, r.AnyOf} {
		if err := t.known(scopes); err != nil {
			return route.Pattern{}, err
		}
		for _, scope := range scopes {
			if of, _ := t.Scope(scope); of != level {
				return route.Pattern{}, fmt.Errorf("the scope %s is of the level %s, the route of %s", scope, of, level)
			}
		}
	}
	return route.Parse(r.path())
}
