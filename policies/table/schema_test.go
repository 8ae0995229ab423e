package table_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/source"
	"github.com/keywicket/keywicket/policies/table"
)

// schemaOf reads the built-in file table.schema.
func schemaOf(t *testing.T) map[string]any {
	t.Helper()
	text, err := policies.Builtin.ReadFile("table.schema")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := util.UnmarshalJSON(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// conforms reports whether a table is valid by the schema. For an invalid table, it also returns the schema's errors.
func conforms(t *testing.T, table string) (bool, any) {
	t.Helper()
	var document any
	if err := util.Unmarshal([]byte(table), &document); err != nil {
		t.Fatal(err)
	}
	results, err := rego.New(rego.Query("json.match_schema(input.table, input.schema)"),
		rego.Input(map[string]any{"table": document, "schema": schemaOf(t)}), rego.StrictBuiltinErrors(true)).Eval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	match := results[0].Expressions[0].Value.([]any)
	return match[0].(bool), match[1]
}

// TestSchemaAgreesWithLoader tests that the schema, which editors use, refuses the same tables as the sidecar. A schema cannot
// detect some errors in paths, and contradictions between two parts of a table, such as a scope that the table does not define.
// So there are no cases with such errors.
func TestSchemaAgreesWithLoader(t *testing.T) {
	const catalogue = "scopes: {workspace: {a: A, b: B}, user: {u: U}}\n"
	row := func(row string) string { return catalogue + "routes:\n  - " + row + "\n" }
	for name, c := range map[string]struct {
		table string
		valid bool
	}{
		"minimal":                                {"{}", true},
		"a route":                                {row("{method: GET, path: /x, scopes: [a]}"), true},
		"several scopes":                         {row("{method: GET, path: /x, scopes: [a, b]}"), true},
		"public":                                 {row("{method: GET, path: /x, public: true}"), true},
		"public, no scopes":                      {row("{method: GET, path: /x, public: true, scopes: []}"), true},
		"not public":                             {row("{method: GET, path: /x, public: false, scopes: [a]}"), true},
		"a user-level route":                     {row("{method: GET, path: /x, level: user, scopes: [u]}"), true},
		"a method with -":                        {row("{method: VERSION-CONTROL, path: /x, scopes: [a]}"), true},
		"a parameter":                            {row(`{method: GET, path: "/x/{id}", scopes: [a]}`), true},
		"overrides, roles":                       {catalogue + "overrides: {workspace: [a], user: [u]}\nroles: {guest: [a], nobody: []}", true},
		"may_hold":                               {`parameters: {may_hold: ["#", ";"], raw_semicolon: true}`, true},
		"every character of a scope":             {"scopes: {workspace: {\"!#$%&'()*+-./09:;<=>?@AZ[]^_`az{|}~\": x}}", true},
		"unknown key":                            {catalogue + "route: []", false},
		"unknown key in a row":                   {row("{method: GET, path: /x, scope: [a]}"), false},
		"unknown key in parameters":              {"parameters: {hold: []}", false},
		"unknown level":                          {row("{method: GET, path: /x, level: team, scopes: [a]}"), false},
		"unknown level under scopes":             {"scopes: {team: {a: A}}", false},
		"unknown level under overrides":          {catalogue + "overrides: {team: [a]}", false},
		"no method":                              {row("{path: /x, scopes: [a]}"), false},
		"no path":                                {row("{method: GET, scopes: [a]}"), false},
		"method in lower case":                   {row("{method: get, path: /x, scopes: [a]}"), false},
		"relative path":                          {row("{method: GET, path: x, scopes: [a]}"), false},
		"no scopes":                              {row("{method: GET, path: /x}"), false},
		"empty scopes":                           {row("{method: GET, path: /x, scopes: []}"), false},
		"not public, no scopes":                  {row("{method: GET, path: /x, public: false}"), false},
		"public with scopes":                     {row("{method: GET, path: /x, public: true, scopes: [a]}"), false},
		"public: yes":                            {row("{method: GET, path: /x, public: yes}"), false},
		`public: "true"`:                         {row(`{method: GET, path: /x, public: "true"}`), false},
		"scopes as a text":                       {row("{method: GET, path: /x, scopes: a}"), false},
		"a number as a scope":                    {row("{method: GET, path: /x, scopes: [1]}"), false},
		"null as a scope":                        {row("{method: GET, path: /x, scopes: [~]}"), false},
		"null as a value":                        {row("{method: GET, path: /x, public: true, level: }"), false},
		"a row that is a text":                   {row("GET /x"), false},
		"routes as an object":                    {"routes: {}", false},
		"a number as a text":                     {"scopes: {workspace: {a: 1}}", false},
		"a blank in a scope":                     {"scopes: {workspace: {a b: A}}", false},
		"a comma in a scope":                     {"scopes: {workspace: {\"a,b\": A}}", false},
		"a quotation mark":                       {"scopes: {workspace: {'a\"b': A}}", false},
		"a backslash":                            {"scopes: {workspace: {'a\\b': A}}", false},
		"not ASCII":                              {"scopes: {workspace: {é: A}}", false},
		"an empty scope":                         {"scopes: {workspace: {\"\": A}}", false},
		"may_hold: a forbidden character":        {"parameters: {may_hold: [/]}", false},
		"may_hold: two characters in one text":   {`parameters: {may_hold: ["#%"]}`, false},
		"raw_semicolon, but may_hold is missing": {"parameters: {raw_semicolon: true}", false},
		"raw_semicolon, but may_hold has no ;":   {`parameters: {may_hold: ["#"], raw_semicolon: true}`, false},
		"the table is a list":                    {"[]", false},
		"any method":                             {row("{method: '*', path: /x, scopes: [a]}"), true},
		"a method of gRPC":                       {row("{grpc: acme.v1.Issues/List, scopes: [a]}"), true},
		"a service of gRPC":                      {row("{grpc: acme.v1.Issues/*, public: true}"), true},
		"any_of":                                 {row("{method: GET, path: /x, any_of: [a, b]}"), true},
		"scopes and any_of":                      {row("{method: GET, path: /x, scopes: [a], any_of: [b]}"), true},
		"head_with_get, implies":                 {catalogue + "head_with_get: true\nimplies: {a: [b], b: []}\n", true},
		"implies a prefix":                       {catalogue + "implies: {a: ['b*']}\n", true},
		"gRPC without a method":                  {row("{grpc: acme.v1.Issues, scopes: [a]}"), false},
		"gRPC with a slash":                      {row("{grpc: /acme.v1.Issues/List, scopes: [a]}"), false},
		"gRPC and a method":                      {row("{grpc: acme.v1.Issues/List, method: POST, scopes: [a]}"), false},
		"gRPC and a path":                        {row("{grpc: acme.v1.Issues/List, path: /x, scopes: [a]}"), false},
		"gRPC without scopes":                    {row("{grpc: acme.v1.Issues/List}"), false},
		"any_of, empty":                          {row("{method: GET, path: /x, any_of: []}"), false},
		"public with any_of":                     {row("{method: GET, path: /x, any_of: [a], public: true}"), false},
		"a method with a *":                      {row("{method: G*, path: /x, scopes: [a]}"), false},
		"head_with_get: yes":                     {catalogue + "head_with_get: yes\n", false},
		"implies a text":                         {catalogue + "implies: {a: b}\n", false},
		"implies, with a blank":                  {catalogue + "implies: {a b: [a]}\n", false},
		"presets":                                {catalogue + "presets: [{name: Only A, scopes: [a]}, {name: Both, scopes: [a, b]}]\n", true},
		"no presets":                             {catalogue + "presets: []\n", true},
		"a preset without a name":                {catalogue + "presets: [{scopes: [a]}]\n", false},
		"a preset with an empty name":            {catalogue + "presets: [{name: '', scopes: [a]}]\n", false},
		"a preset with a blank name":             {catalogue + "presets: [{name: ' ', scopes: [a]}]\n", false},
		"a preset with a number as its name":     {catalogue + "presets: [{name: 1, scopes: [a]}]\n", false},
		"a preset without scopes":                {catalogue + "presets: [{name: A}]\n", false},
		"a preset with empty scopes":             {catalogue + "presets: [{name: A, scopes: []}]\n", false},
		"a preset with an invalid scope":         {catalogue + "presets: [{name: A, scopes: ['a b']}]\n", false},
		"a preset with an unknown key":           {catalogue + "presets: [{name: A, scopes: [a], level: user}]\n", false},
		"a preset that is a text":                {catalogue + "presets: [A]\n", false},
		"presets as an object":                   {catalogue + "presets: {A: [a]}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, refused := table.Read(folder.Folder{Files: []folder.File{{Name: "apis/zoo/data.yaml", Text: []byte(c.table)}}})
			valid, why := conforms(t, c.table)
			if valid != c.valid || (refused == nil) != c.valid {
				t.Errorf("valid by the schema: %v, %v\nrefused by the loader: %v", valid, why, refused)
			}
		})
	}
}

// TestShippedTablesNameTheirSchema tests that the first line of each built-in table contains the path of the schema. The path
// must also be correct in a copy of the folder.
func TestShippedTablesNameTheirSchema(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my-policies")
	if out, err := exec.CommandContext(t.Context(), "cp", "-r", "..", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	embedded := filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(embedded, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, embedded} {
		files, err := filepath.Glob(filepath.Join(root, "apis/*/data.yaml"))
		if err != nil || len(files) != 2 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			named, ok := strings.CutPrefix(first, "# yaml-language-server: $schema=")
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), named)); !ok || err != nil {
				t.Errorf("%s: the first line %q does not contain the path of the schema: %v", file, first, err)
			}
			if valid, why := conforms(t, string(text)); !valid {
				t.Errorf("%s: %v", file, why)
			}
		}
	}
	files, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := source.Read(files)
	if err != nil || len(s.Data) != 1 {
		t.Errorf("the schema was read as data: %v, %v", s.Data, err)
	}
}

// TestSchemaHasEveryKey tests that the schema and the loader have the same keys.
func TestSchemaHasEveryKey(t *testing.T) {
	schema := schemaOf(t)
	for _, c := range []struct {
		value any
		path  []string
	}{
		{table.Table{}, []string{"properties"}},
		{table.Route{}, []string{"definitions", "route", "properties"}},
		{table.Preset{}, []string{"definitions", "preset", "properties"}},
		{target.Parameters{}, []string{"properties", "parameters", "properties"}},
	} {
		var keys []string
		for field := range reflect.TypeOf(c.value).Fields() {
			if key := field.Tag.Get("yaml"); field.IsExported() && key != "-" {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		node := schema
		for _, key := range c.path {
			node, _ = node[key].(map[string]any)
		}
		if schemaKeys := util.KeysSorted(node); !slices.Equal(schemaKeys, keys) {
			t.Errorf("%T has the keys %s, but the schema has the keys %s", c.value, keys, schemaKeys)
		}
	}
}
