// Package source reads a policy folder: rules, their tests and their data. It compiles the rules and runs the tests.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/table"
)

// Source is a policy's parsed files: rules, their tests, and the data as OPA reads it.
type Source struct {
	Rules, Tests map[string]*ast.Module // parsed modules, by the name of the file
	Data         map[string]any         // "apis" contains the tables, "facts" contains the other data
	hash         hash.Hash              // hash of all files, in the order of their names
	complete     bool                   // every file was read and every Rego file was parsed, so the rules can be compiled
}

// Hash returns twelve hexadecimal digits that identify the content of all files that Read has read.
func (s Source) Hash() string { return hex.EncodeToString(s.hash.Sum(nil)[:6]) }

// Open reads a folder, and compiles its rules and their tests. The error has a line for each problem.
func Open(ctx context.Context, policy fs.FS) (map[string]table.Table, Source, error) {
	if err := table.Readable(policy); err != nil {
		return nil, Source{}, err
	}
	var all fault.Errors
	tables, err := table.Read(policy)
	all.AddFile("", err)
	s, err := Read(policy)
	all.AddFile("", err)
	if s.complete {
		err := s.checkRuleForms()
		if err == nil {
			err = s.compile(ctx)
		}
		all.AddFile("", err)
	}
	return tables, s, all.Err()
}

// Read parses the files. It ignores a table that is not valid YAML: [table.Read] reports that.
func Read(policy fs.FS) (Source, error) {
	var all fault.Errors
	apis := make(map[string]any)
	s := Source{
		Rules:    make(map[string]*ast.Module),
		Tests:    make(map[string]*ast.Module),
		Data:     map[string]any{"apis": apis},
		hash:     sha256.New(),
		complete: true,
	}
	var otherData facts
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
			all.AddFile(file, err)
			s.complete = false
			return nil
		}
		fmt.Fprintf(s.hash, "%s %d\n%s", file, len(text), text)
		isTable, _ := path.Match("apis/*/data.yaml", file)
		switch {
		case path.Ext(file) == ".rego":
			err := s.addModule(file, text)
			all.AddFile(file, err)
			s.complete = s.complete && err == nil
		case isTable:
			var content any
			if util.Unmarshal(text, &content) == nil {
				apis[path.Base(path.Dir(file))] = content
			}
		case isFacts(file):
			all.AddFile(file, otherData.add(file, text))
		default:
			all.AddFile(file, errors.New("unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json"))
		}
		return nil
	})
	if err != nil {
		all.AddFile("", err)
		s.complete = false
	}
	if len(s.Rules) == 0 && len(all) == 0 {
		all.AddFile("", errors.New("there is no Rego file"))
	}
	maps.Copy(s.Data, otherData.merged)
	return s, all.Err()
}

// addModule parses a Rego file as `opa test` does. It includes metadata, which rules can read with rego.metadata.rule.
func (s *Source) addModule(file string, text []byte) error {
	module, err := ast.ParseModuleWithOpts(file, string(text), ast.ParserOptions{
		RegoVersion: ast.DefaultRegoVersion, ProcessAnnotation: true,
	})
	switch {
	case err != nil:
		return err
	case strings.HasSuffix(file, "_test.rego"):
		s.Tests[file] = module
	default:
		s.Rules[file] = module
	}
	return nil
}
