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

// sources are a policy's parsed files: rules, their tests, and the data as OPA reads it.
type sources struct {
	rules, tests map[string]*ast.Module
	data         map[string]any // "apis" has the tables, "facts" the other data
	hash         hash.Hash      // of all files, in the order of their names
	complete     bool           // every file was read and every Rego file parsed, so the rules can be compiled
}

// open reads a folder, and compiles its rules and their tests. The error has a line for each problem.
func open(ctx context.Context, policy fs.FS) (map[string]Table, sources, error) {
	if err := readable(policy); err != nil {
		return nil, sources{}, err
	}
	var all faults
	tables, err := Tables(policy)
	all.in("", err)
	s, err := read(policy)
	all.in("", err)
	if s.complete {
		err := s.checkRuleForms()
		if err == nil {
			err = s.compile(ctx)
		}
		all.in("", err)
	}
	return tables, s, all.err()
}

// readable returns an error if the folder does not exist: other errors would only be its consequences.
func readable(policy fs.FS) error {
	_, err := fs.Stat(policy, ".")
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err // without the path, which is only "."
	}
	if err != nil {
		return fmt.Errorf("the folder cannot be read: %w", err)
	}
	return nil
}

// read parses the files. It ignores a table that is not valid YAML: Tables reports that.
func read(policy fs.FS) (sources, error) {
	var all faults
	apis := make(map[string]any)
	s := sources{
		rules:    make(map[string]*ast.Module),
		tests:    make(map[string]*ast.Module),
		data:     map[string]any{"apis": apis},
		hash:     sha256.New(),
		complete: true,
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
			s.complete = false
			return nil
		}
		fmt.Fprintf(s.hash, "%s %d\n%s", file, len(text), text)
		isTable, _ := path.Match("apis/*/data.yaml", file)
		switch {
		case path.Ext(file) == ".rego":
			err := s.addModule(file, text)
			all.in(file, err)
			s.complete = s.complete && err == nil
		case isTable:
			var table any
			if util.Unmarshal(text, &table) == nil {
				apis[path.Base(path.Dir(file))] = table
			}
		case isFacts(file):
			all.in(file, known.add(file, text))
		default:
			all.in(file, errors.New("unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json"))
		}
		return nil
	})
	if err != nil {
		all.in("", err)
		s.complete = false
	}
	if len(s.rules) == 0 && len(all) == 0 {
		all.in("", errors.New("there is no Rego file"))
	}
	maps.Copy(s.data, known.merged)
	return s, all.err()
}

// addModule parses a Rego file as `opa test` does. It includes metadata, which rules can read with rego.metadata.rule.
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

// blockedBuiltins are the built-in functions that access the network or the environment. A decision must not wait for the
// network, or expose the environment. The functions for JSON schemas are among them, because a schema can refer to another one by
// its URL.
var blockedBuiltins = []string{
	ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.OPARuntime.Name, ast.JSONMatchSchema.Name, ast.JSONSchemaVerify.Name,
}

// capabilities returns OPA's capabilities without the blocked built-in functions.
func capabilities() *ast.Capabilities {
	c := everyBuiltin()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(blockedBuiltins, b.Name) })
	return c
}

// everyBuiltin returns OPA's capabilities with the blocked built-in functions, so that the compiler can report them by name. With
// these capabilities, the compiler cannot fetch schemas from the network.
func everyBuiltin() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	return c
}
