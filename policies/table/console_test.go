package table_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/table"
)

func formats(kinds ...authz.Kind) (all []authz.CredentialFormat) {
	for _, kind := range kinds {
		all = append(all, authz.CredentialFormat{Kind: kind})
	}
	return all
}

var (
	velaflowsFormats = formats(authz.KindWorkspaceToken)
	velocityFormats  = formats(authz.KindWorkspaceKey, authz.KindPersonalKey, authz.KindOAuthToken)
)

func TestBuiltInTablesHaveTheRowsOfTheConsole(t *testing.T) {
	files, err := folder.Read(policies.Builtin)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := table.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	for name, formats := range map[string][]authz.CredentialFormat{"velaflows": velaflowsFormats, "velocity": velocityFormats} {
		if err := tables[name].CheckConsole("/settings", formats); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for pages, want := range map[string]string{
		"/account": `missing rows: {method: GET, path: /account, public: true}, {method: POST, path: /account, public: true}, ` +
			`{method: GET, path: "/account/{page...}", public: true}, {method: POST, path: "/account/{page...}", public: true}: add them to the routes of the table`,
		"/{x": "the path of the console's pages: ",
	} {
		if err := tables["velocity"].CheckConsole(pages, velocityFormats); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", pages, err)
		}
	}
}

// The error names every row that is missing. The table with these rows is complete.
func TestMissingRowsCanBeCopiedIntoTheTable(t *testing.T) {
	const catalogue = "scopes: {workspace: {a: A, all: All}, user: {u: U}}\noverrides: {workspace: [all], user: [u]}\nroutes:\n"
	for name, c := range map[string]struct {
		formats []authz.CredentialFormat
		rows    int
		with    string // a part of the error
		without string // the error does not contain this text
	}{
		"tokens of workspaces": {velaflowsFormats, 17, `{method: DELETE, path: "/api/keywicket/v1/tokens/{id}", scopes: [all]}`, "personal"},
		"personal keys":        {formats(authz.KindPersonalKey), 18, `{method: POST, path: /api/keywicket/v1/personal-keys, level: user, scopes: [u]}`, "v1/tokens"},
		"everything":           {velocityFormats, 32, `{method: DELETE, path: "/api/keywicket/v1/grants/{id}", level: user, scopes: [u]}`, "SCOPE"},
	} {
		incomplete, err := read(catalogue + "  - {method: GET, path: /x, scopes: [a]}\n")
		if err != nil {
			t.Fatal(err)
		}
		err = incomplete.CheckConsole("/settings", c.formats)
		if err == nil || strings.Count(err.Error(), "{method") != c.rows || !strings.Contains(err.Error(), c.with) || strings.Contains(err.Error(), c.without) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		list := strings.TrimSuffix(strings.TrimPrefix(err.Error(), "missing rows: "), ": add them to the routes of the table")
		rows := "  - " + strings.ReplaceAll(list, "}, {method", "}\n  - {method") + "\n"
		complete, err := read(catalogue + rows)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := complete.CheckConsole("/settings", c.formats); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A row counts only if it was written for the console, and if its level and its key `public` are right.
func TestRowsThatAreNotThoseOfTheConsole(t *testing.T) {
	const catalogue = "scopes: {workspace: {a: A}, user: {u: U}}\nroutes:\n"
	for row, counts := range map[string]bool{
		`{method: GET, path: /api/keywicket/v1/activity, scopes: [a]}`:              true,
		`{method: "*", path: "/api/keywicket/v1/{path...}", scopes: [a]}`:           true,
		`{method: GET, path: "/api/{path...}", scopes: [a]}`:                        false,
		`{method: GET, path: /api/keywicket/v1/activity, public: true}`:             false,
		`{method: GET, path: /api/keywicket/v1/activity, level: user, scopes: [u]}`: false,
		`{method: POST, path: /api/keywicket/v1/activity, scopes: [a]}`:             false,
		`{method: GET, path: /api/keywicket/v1/Activity, scopes: [a]}`:              false,
	} {
		rows, err := read(catalogue + "  - " + row + "\n")
		if err != nil {
			t.Fatal(err)
		}
		err = rows.CheckConsole("/settings", velaflowsFormats)
		if err == nil || strings.Contains(err.Error(), "{method: GET, path: /api/keywicket/v1/activity, scopes: [SCOPE]}") == counts {
			t.Errorf("%s: %v", row, err)
		}
	}
}
