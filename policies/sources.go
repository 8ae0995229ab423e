package policies

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// sources are a policy's files, parsed: rules, their tests, and the data as OPA reads it.
type sources struct {
	rules, tests map[string]*ast.Module
	data         map[string]any // apis: the tables; facts
	hash         hash.Hash      // of all files, in the order of their names
	whole        bool           // every file could be read and every Rego file parsed, so that they can be compiled
}

// open reads a folder, and compiles its rules and their tests. The error tells everything that is wrong.
func open(ctx context.Context, policy fs.FS) (map[string]Table, sources, error) {
	if err := readable(policy); err != nil {
		return nil, sources{}, err
	}
	var all faults
	tables, err := Tables(policy)
	all.in("", err)
	s, err := read(policy)
	all.in("", err)
	if s.whole {
		err := s.forms()
		if err == nil {
			err = s.compile(ctx)
		}
		all.in("", err)
	}
	return tables, s, all.err()
}

// readable returns an error if there is no such folder: what else is wrong would be its consequence.
func readable(policy fs.FS) error {
	_, err := fs.Stat(policy, ".")
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err // its path is from the folder on
	}
	if err != nil {
		return fmt.Errorf("the folder cannot be read: %w", err)
	}
	return nil
}

// read parses the files. Of a table that is no YAML it says nothing: Tables does.
func read(policy fs.FS) (sources, error) {
	var all faults
	apis := make(map[string]any)
	s := sources{
		rules: make(map[string]*ast.Module),
		tests: make(map[string]*ast.Module),
		data:  map[string]any{"apis": apis},
		hash:  sha256.New(),
		whole: true,
	}
	var known facts
	err := fs.WalkDir(policy, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		switch path.Ext(file) {
		case ".rego":
		case ".yaml", ".yml", ".json":
		default:
			return nil
		}
		text, err := fs.ReadFile(policy, file)
		if err != nil {
			all.in(file, err)
			s.whole = false
			return nil
		}
		fmt.Fprintf(s.hash, "%s %d\n%s", file, len(text), text)
		isTable, _ := path.Match("apis/*/data.yaml", file)
		switch {
		case path.Ext(file) == ".rego":
			err := s.addModule(file, text)
			all.in(file, err)
			s.whole = s.whole && err == nil
		case isTable:
			var table any
			if util.Unmarshal(text, &table) == nil {
				apis[path.Base(path.Dir(file))] = table
			}
		case isFacts(file):
			all.in(file, known.add(file, text))
		default:
			all.in(file, errors.New("a table is apis/NAME/data.yaml, other data facts/NAME/data.yaml or .json: nothing else is read"))
		}
		return nil
	})
	if err != nil {
		all.in("", err)
		s.whole = false
	}
	if len(s.rules) == 0 && len(all) == 0 {
		all.in("", errors.New("there is no Rego file"))
	}
	maps.Copy(s.data, known.merged)
	return s, all.err()
}

// addModule parses a file as `opa test` does. Metadata is read, because rego.metadata.rule can ask for it.
func (s *sources) addModule(file string, text []byte) error {
	module, err := ast.ParseModuleWithOpts(file, string(text), ast.ParserOptions{
		RegoVersion: ast.DefaultRegoVersion, ProcessAnnotation: true,
	})
	switch {
	case err != nil:
		return err
	case strings.HasSuffix(file, "_test.rego"):
		s.tests[file] = module
	default:
		s.rules[file] = module
	}
	return nil
}

// outward are the built-ins that reach out of the process: a decision waits for no network, and tells nothing of the
// environment. A JSON schema can refer to another one by its URL.
var outward = []string{
	ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.OPARuntime.Name, ast.JSONMatchSchema.Name, ast.JSONSchemaVerify.Name,
}

// capabilities are OPA's own without the built-ins that reach out of the process.
func capabilities() *ast.Capabilities {
	c := everyBuiltin()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(outward, b.Name) })
	return c
}

// everyBuiltin is for a compiler that tells by name what capabilities leave out. It fetches no schema either.
func everyBuiltin() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	return c
}
