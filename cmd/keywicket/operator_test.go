package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/store/database"
)

// operatorCommands are command lines for each command of an operator, in an order in which all of them succeed. Words that start
// with a dollar sign are values of earlier outputs. The keys of operatorInput are command lines, and the values are their standard
// inputs.
var (
	operatorCommands = []string{
		"workspace create --slug acme --name Acme --id 64f1a2b3c4d5e6f7a8b9c0d1 --attributes {}",
		"workspace set acme --attributes {} --wait",
		"workspace set acme --leaver-rule end",
		"workspace list",
		"user create --email ada@example.com --id ada --attributes {}",
		"user set ada --attributes {} --wait",
		"user list",
		"member set --workspace acme --user ada --role guest --wait",
		"member set --workspace acme --user ada --role owner",
		"member list --workspace acme",
		"token create --prefix vel_ --api velocity --workspace acme --name a --access read --expires-in 90d --attributes {}",
		"token create --prefix velu_ --user ada --name b --scope issues:read --expires-at 2999-01-31T12:00:00Z",
		"token set $id --attributes {} --wait",
		"token list --workspace acme --limit 5",
		"token list --user ada --prefix velu_ --after $id",
		"token import --prefix sk_live_ --api velaflows --format csv",
		"token verify --api velocity",
		"token verify",
		"explain GET /api/issues --token-id $id --workspace acme --api velocity",
		"explain GET /api/issues --user ada --policies-dir $policies",
		"explain GET /api/issues --token-id app-token",
		"explain GET /api/issues --scope issues:read",
		"explain --log-line - --workspace acme",
		"token list --expiring 14d --unused 90d",
		"token list --creator-left",
		"token rotate $id --overlap 1h",
		"token revoke $id --wait",
		"token leaked --wait",
		"session revoke 0b5a2b3c-1111-2222-3333-444455556666 --wait",
		"session revoke --user ada",
		"oauth-app create --name app --redirect-uri https://app.example/cb --id my-app --api velocity --confidential --scope issues:read --development",
		"oauth-app list",
		"oauth-app rotate-secret my-app --wait",
		"grant list --app planner --user ada",
		"grant revoke planned --wait",
		"oauth-app revoke my-app --wait",
		"sidecar list",
		"migrate status",
		"audit list --workspace acme --user ada --object $id --actor ada --action change --since 2020-01-01T00:00:00Z --until 2020-01-01T00:00:00Z --after 1 --limit 5",
		"audit export --workspace acme --user ada --object $id --actor ada --action change --since 2020-01-01T00:00:00Z --until 2020-01-01T00:00:00Z --after 1",
		"member remove --workspace acme --user ada --wait",
	}
	operatorInput = map[string]string{
		"token import --prefix sk_live_ --api velaflows --format csv": "token,name,scopes,workspace\nsk_live_0123456789abcdefghij,old,inbox:read,acme\n",
		"token verify --api velocity":                                 "$token",
		"token verify":                                                "velo_0123456789abcdef",
		"token leaked --wait":                                         "$token",
		"explain --log-line - --workspace acme": `{"msg":"decision","decision_id":"D","api":"velocity","method":"GET","route":"GET /api/issues","allow":true,` +
			`"subject":"app-token","kind":"oauth_token"}`,
	}
)

// operatorFixture is what the operator's commands need, and only the issuer or a sidecar creates.
const operatorFixture = `
INSERT INTO keywicket.users (id, email) VALUES ('grace', 'grace@example.com');
INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential)
	VALUES ('planner', 'velocity', 'Planner', '{https://planner.example/cb}', sha256('secret'), false);
INSERT INTO keywicket.oauth_grants (id, app_id, user_id, scopes) VALUES ('planned', 'planner', 'grace', '{issues:read}');
INSERT INTO keywicket.oauth_access_tokens (id, digest, grant_id, scopes, expires_at)
	VALUES ('app-token', sha256('velo_0123456789abcdef'), 'planned', '{issues:read}', clock_timestamp() + interval '1 hour');
INSERT INTO keywicket.world (number, world, told, verified_at, made_at) VALUES (1, '', true, 'epoch', 'epoch');`

// A login with the role keywicket_operator can run every command except those of the servers and of migrations. The parser's model
// of the command line lists the commands and their flags, so this test fails if a new one is missing above.
func TestOperatorsLoginRunsEveryCommand(t *testing.T) {
	parser, err := kong.New(new(commands))
	if err != nil {
		t.Fatal(err)
	}
	withoutOperator := []string{"serve", "issuer", "console", "demo", "version", "completion", "migrate up", "audit expire"}
	for _, leaf := range parser.Model.Leaves(true) {
		name := strings.TrimPrefix(leaf.FullPath(), parser.Model.Name+" ")
		var lines []string
		for _, line := range operatorCommands {
			if strings.HasPrefix(line+" ", name+" ") {
				lines = append(lines, line)
			}
		}
		if (lines == nil) != slices.Contains(withoutOperator, name) {
			t.Errorf("%s: %d command lines of an operator", name, len(lines))
		}
		for _, flag := range leaf.Flags {
			if lines != nil && !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, " --"+flag.Name) }) {
				t.Errorf("%s: no command line has --%s", name, flag.Name)
			}
		}
	}
	if err := runOperatorCommands(t, operatorLogin(t)); err != nil {
		t.Error(err)
	}
}

// Each privilege of the role is needed: without it, one of the commands fails.
func TestOperatorsRoleHasNoPrivilegeTooMany(t *testing.T) {
	if testing.Short() {
		t.Skip("runs all commands once for each privilege")
	}
	race.Skip(t)
	administrator, err := database.Open(server.URL(migratedTemplate))
	if err != nil {
		t.Fatal(err)
	}
	var privileges []string
	err = administrator.SelectContext(t.Context(), &privileges, `
		SELECT format('%s (%I) ON keywicket.%I', privilege_type, attname, relname)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN LATERAL aclexplode(attacl)
		WHERE grantee = 'keywicket_operator'::regrole
		UNION ALL
		SELECT format('%s ON keywicket.%I', privilege_type, relname) FROM pg_class c CROSS JOIN LATERAL aclexplode(relacl)
		WHERE grantee = 'keywicket_operator'::regrole
		UNION ALL
		SELECT format('%s ON SCHEMA %I', privilege_type, nspname) FROM pg_namespace n CROSS JOIN LATERAL aclexplode(nspacl)
		WHERE grantee = 'keywicket_operator'::regrole
		ORDER BY 1`)
	if err != nil || len(privileges) < 50 {
		t.Fatalf("%d privileges, %v", len(privileges), err)
	}
	_ = administrator.Close()
	for _, privilege := range privileges {
		login := operatorLogin(t, "REVOKE "+privilege+" FROM keywicket_operator")
		if err := runOperatorCommands(t, login); err == nil {
			t.Errorf("no command needs the privilege %s", privilege)
		} else if !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", privilege, err)
		}
	}
}

// operatorLogin returns the URL of a new database, for a login that has only the role keywicket_operator. The statements run in
// the database before.
func operatorLogin(t *testing.T, statements ...string) string {
	t.Helper()
	databaseURL, err := newDatabase(migratedTemplate)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	name := fmt.Sprintf("operator_%d", databaseCount.Load())
	create := `CREATE ROLE ` + name + ` LOGIN PASSWORD 'p' IN ROLE keywicket_operator`
	for _, statement := range append([]string{operatorFixture, create}, statements...) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "p")
	return u.String()
}

// runOperatorCommands runs operatorCommands until one fails, and returns its error.
func runOperatorCommands(t *testing.T, databaseURL string) error {
	t.Helper()
	policies, err := filepath.Abs("../../policies")
	if err != nil {
		return err
	}
	values := map[string]string{"$policies": policies}
	for _, line := range operatorCommands {
		args := strings.Fields(line)
		for i, arg := range args {
			if value, ok := values[arg]; ok {
				args[i] = value
			}
		}
		if input, ok := operatorInput[line]; ok {
			setStdin(t, cmp.Or(values[input], input))
		}
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), append(args, "--output", "json", "--database-url", databaseURL), nil, &stdout, &stderr); status != 0 {
			return fmt.Errorf("%s exited with %d: %s", line, status, &stderr)
		}
		var token struct{ ID, Token string }
		if json.Unmarshal(stdout.Bytes(), &token) == nil && token.Token != "" {
			values["$id"], values["$token"] = token.ID, token.Token
		}
	}
	return nil
}

// setStdin makes the text the standard input of this process, until the test ends.
func setStdin(t *testing.T, text string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdin
	os.Stdin = f
	t.Cleanup(func() {
		os.Stdin = before
		_ = f.Close()
	})
}
