// Package source parses the files of a policy: rules, their tests and their data. It compiles the rules and runs the tests.
package source

import (
	"context"
	"errors"
	"maps"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/table"
)

// Source is a policy's parsed files: rules, their tests, and the data as OPA reads it.
type Source struct {
	Rules, Tests map[string]*ast.Module // parsed modules, by the name of the file
	Data         map[string]any         // "apis" contains the tables, "facts" contains the other data
	complete     bool                   // every Rego file was parsed, so the rules can be compiled
}

// Open parses a policy, and compiles its rules and their tests. The error has a line for each problem.
func Open(ctx context.Context, policy folder.Folder) (map[string]table.Table, Source, error) {
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
func Read(policy folder.Folder) (Source, error) {
	var all fault.Errors
	apis := make(map[string]any)
	s := Source{
		Rules:    make(map[string]*ast.Module),
		Tests:    make(map[string]*ast.Module),
		Data:     map[string]any{"apis": apis},
		complete: true,
	}
	var otherData facts
	for _, file := range policy.Files {
		isTable, _ := path.Match("apis/*/data.yaml", file.Name)
		switch {
		case path.Ext(file.Name) == ".rego":
			err := s.addModule(file.Name, file.Text)
			all.AddFile(file.Name, err)
			s.complete = s.complete && err == nil
		case isTable:
			var content any
			if util.Unmarshal(file.Text, &content) == nil {
				apis[path.Base(path.Dir(file.Name))] = content
			}
		case isFacts(file.Name):
			all.AddFile(file.Name, otherData.add(file.Name, file.Text))
		default:
			all.AddFile(file.Name, errors.New("unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json"))
		}
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
