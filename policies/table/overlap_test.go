package table_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// Some servers serve a request for one row as a request for another row. If the other row requires more, Warnings reports the
// first row. It reports no other row.
func TestRowsThatAServerMayConfuse(t *testing.T) {
	const catalogue = "scopes: {workspace: {read: Read, admin: Administer}, user: {me: Me}}\noverrides: {}\nroles: {}\nroutes:\n"
	row := func(path, needs string) string { return `  - {method: GET, path: "` + path + `", ` + needs + "}\n" }
	const read, admin, readAndAdmin, public, user = "scopes: [read]", "scopes: [admin]", "scopes: [read, admin]", "public: true", "level: user, scopes: [me]"
	for name, c := range map[string]struct {
		rows string
		want []string // a part of each warning
	}{
		"a parameter instead of a literal": {row("/charges/search", admin) + row("/charges/{charge}", read),
			[]string{"apis/zoo/data.yaml: line 6: GET /charges/{charge} can match requests meant for line 5, /charges/search, if the server ignores letter case"}},
		"a parameter in the first segment":      {row("/charges/{id}", admin) + row("/{kind}/{id}", read), []string{"line 6: GET /{kind}/{id}"}},
		"an escaped literal":                    {row("/%63harges", admin) + row("/{kind}", read), []string{"line 6"}},
		"a public row with a parameter":         {row("/charges/search", read) + row("/charges/{charge}", public), []string{"line 6"}},
		"a parameter of another level":          {row("/charges/search", user) + row("/charges/{charge}", read), []string{"line 6"}},
		"a parameter with one of two scopes":    {row("/charges/search", readAndAdmin) + row("/charges/{charge}", read), []string{"line 6"}},
		"a slash at the end":                    {row("/charges/search", admin) + row("/charges/{charge}/", read), []string{"line 6"}},
		"a literal with a slash":                {row("/charges/", admin) + row("/charges", read), []string{"line 6: GET /charges can match requests meant for line 5, /charges/,", "line 5: GET /charges/ can match requests meant for line 6, /charges,"}},
		"a literal in another case":             {row("/Charges", admin) + row("/charges", read), []string{"line 6: GET /charges can match requests meant for line 5, /Charges,", "line 5: GET /Charges can match requests meant for line 6, /charges,"}},
		"digits and a slash":                    {row("/v/1", admin) + row("/v/{version}/", read), []string{"line 6"}},
		"a partial segment":                     {row("/charges/{id}.json", admin) + row("/charges/{charge}", read), []string{"line 6: GET /charges/{charge} can match requests meant for line 5, /charges/{id}.json,"}},
		"a literal in a partial":                {row("/charges/all.json", admin) + row("/charges/{id}.json", read), []string{"line 6"}},
		"partials in another case":              {row("/charges/{id}.JSON", admin) + row("/charges/{id}.json", read), []string{"line 6: GET /charges/{id}.json can match requests meant for line 5, /charges/{id}.JSON,", "line 5: GET /charges/{id}.JSON"}},
		"a parameter for the rest":              {row("/files/private/{id}", admin) + row("/files/{path...}", read), []string{"line 6: GET /files/{path...} can match requests meant for line 5, /files/private/{id},"}},
		"a parameter for the rest, and a slash": {row("/files/{id}", admin) + row("/files/{path...}", read), []string{"line 6"}},
		"a row for any method":                  {row("/charges/search", admin) + `  - {method: "*", path: "/charges/{charge}", scopes: [read]}` + "\n", []string{"line 6: * /charges/{charge}"}},
		"a parameter with any of two scopes":    {row("/charges/search", admin) + row("/charges/{charge}", "any_of: [read, admin]"), []string{"line 6"}},

		"a literal with any of two scopes":                     {row("/charges/search", "any_of: [read, admin]") + row("/charges/{charge}", read), nil},
		"a partial without letters":                            {row("/charges/{id}.7", admin) + row("/charges/{charge}", read), nil},
		"a parameter for the rest of another path":             {row("/private/{id}", admin) + row("/files/{path...}", read), nil},
		"the same scopes":                                      {row("/charges/search", read) + row("/charges/{charge}", read), nil},
		"a parameter that requires more scopes":                {row("/charges/search", read) + row("/charges/{charge}", readAndAdmin), nil},
		"a public row with a literal":                          {row("/charges/search", public) + row("/charges/{charge}", read), nil},
		"a literal without letters":                            {row("/charges/7", admin) + row("/charges/{charge}", read), nil},
		"another literal in the first segment":                 {row("/charges/search", admin) + row("/refunds/{refund}", read), nil},
		"another number of segments":                           {row("/charges/search", admin) + row("/{charge}", read), nil},
		"another method":                                       {row("/charges/search", admin) + `  - {method: POST, path: "/charges/{charge}", scopes: [read]}` + "\n", nil},
		"a parameter, and the root path":                       {row("/", admin) + row("/{thing}", read), nil},
		"parameters in different segments":                     {row("/{workspace}/settings", read) + row("/admin/{page}", admin), []string{"line 5: GET /{workspace}/settings can match requests meant for line 6, /admin/{page},"}},
		"parameters in different segments, the safe row first": {row("/{workspace}/settings", readAndAdmin) + row("/admin/{page}", read), nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			policytest.Write(t, dir, "apis/zoo/data.yaml", catalogue+c.rows)
			got := policytest.Explainer(t, dir).Warnings()
			if len(got) != len(c.want) {
				t.Fatalf("%d warnings: %q", len(got), got)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, not %q", got[i], want)
				}
			}
		})
	}
	if got := policytest.Explainer(t, "").Warnings(); len(got) != 0 {
		t.Errorf("the built-in policy: %q", got)
	}
}
