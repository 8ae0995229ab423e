package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/policies/fault"
)

// facts contains the additional data of a policy: the data files below facts/. The tables are not part of it. The file
// facts/NAME/data.yaml is data.facts.NAME, as in `opa test` and `opa test -b`.
type facts struct {
	merged map[string]any // its single top-level key is "facts"
	files  []factsFile
}

type factsFile struct {
	name     string
	document map[string]any // its single top-level key is "facts"
}

// isFacts reports whether a data file is below facts/.
func isFacts(file string) bool { return strings.HasPrefix(file, "facts/") }

// add merges a file with the files that were added before. It merges only objects. Like OPA, it refuses two files that set the
// same key.
func (f *facts) add(name string, text []byte) error {
	value, err := readFacts(name, text)
	if err != nil {
		return err
	}
	folders := strings.Split(path.Dir(name), "/")
	for _, folder := range slices.Backward(folders) {
		value = map[string]any{folder: value}
	}
	before := f.files
	file := factsFile{name, value.(map[string]any)}
	f.files = append(f.files, file) // even if the file is refused, because a part of the file is merged
	if f.merged == nil {
		f.merged = make(map[string]any)
	}
	if key := merge(f.merged, file.document); key != nil {
		var tree yaml.Node
		_ = yaml.Unmarshal(text, &tree) // only for the line: if this fails, the error has line 0
		other := before[slices.IndexFunc(before, func(one factsFile) bool { return one.has(key) })]
		return fault.Errors{{
			Line: fault.LineOf(&tree, key[min(len(folders), len(key)):]...),
			Text: fmt.Sprintf("data.%s is also in %s: keep one", strings.Join(key, "."), other.name),
		}}
	}
	return nil
}

// readFacts parses a file as OPA does, and refuses a file that `opa test` and `opa test -b` read differently.
func readFacts(name string, text []byte) (any, error) {
	var value any
	if path.Ext(name) == ".json" {
		err := util.UnmarshalJSON(text, &value)
		end := int64(len(text))
		var syntax *json.SyntaxError
		switch {
		case err == nil:
			return value, nil
		case errors.As(err, &syntax):
			end = syntax.Offset
		}
		return nil, fault.Errors{{Line: 1 + bytes.Count(bytes.TrimRight(text[:end], " \t\r\n"), []byte("\n")), Text: fault.OneLine(err.Error())}}
	}
	if err := util.Unmarshal(text, &value); err != nil {
		return nil, cmp.Or(strictyaml.Syntax(text), err)
	}
	// `opa test -b` reads a YAML file that is valid JSON as JSON. `opa test` reads it as YAML, which rounds large numbers. A
	// leading line --- makes the parser read the text as YAML.
	if text = bytes.TrimPrefix(text, []byte("\uFEFF")); json.Valid(text) {
		var asYAML any
		if err := util.Unmarshal(append([]byte("---\n"), text...), &asYAML); err != nil || !reflect.DeepEqual(value, asYAML) {
			return nil, errors.New("the commands opa test (as YAML) and opa test -b (as JSON) read this file differently: rename the file to data.json")
		}
	}
	return value, nil
}

// merge adds the document `added` to the document `target`. It returns the path of the first key that both documents set, and
// changes nothing below that key.
func merge(target, added map[string]any) []string {
	for _, key := range slices.Sorted(maps.Keys(added)) {
		value := added[key]
		object, isObject := value.(map[string]any)
		existing, exists := target[key]
		if !exists && !isObject {
			target[key] = value
			continue
		}
		if !exists {
			existing = make(map[string]any, len(object)) // a new map, because the document itself must not change
			target[key] = existing
		}
		existingObject, ok := existing.(map[string]any)
		if !ok || !isObject {
			return []string{key}
		}
		if below := merge(existingObject, object); below != nil {
			return append([]string{key}, below...)
		}
	}
	return nil
}

// has reports whether the file sets the key, or a key below this key. It is also true if the file sets a key above this key to a
// value that is not an object.
func (f factsFile) has(key []string) bool {
	var value any = f.document
	for _, k := range key {
		object, ok := value.(map[string]any)
		if !ok {
			return true
		}
		if value, ok = object[k]; !ok {
			return false
		}
	}
	return true
}
