package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/test/supabase"
)

// The tests share a temporary Postgres server. Each test has its own database, which is a copy of a migrated template.
var (
	server        *postgres.Server
	databaseCount atomic.Int64
)

const (
	migratedTemplate = "template_keywicket"
	emptyTemplate    = "template0"
)

// TestMain runs the tests with a Postgres server. In a script, the command `keywicket` starts this test binary again as keywicket.
// That process starts no Postgres server.
func TestMain(m *testing.M) {
	testscript.Main(withPostgres{m}, map[string]func(){"keywicket": main})
}

// withPostgres runs the tests with a Postgres server.
type withPostgres struct{ tests *testing.M }

func (w withPostgres) Run() int {
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func (w withPostgres) run() (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if server, err = postgres.Start(ctx, postgres.Config{}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := executeStatement(ctx, "CREATE DATABASE "+migratedTemplate); err != nil {
		return 0, err
	}
	db, err := database.Open(server.URL(migratedTemplate))
	if err != nil {
		return 0, err
	}
	_, err = schema.Migrate(ctx, db)
	if err = errors.Join(err, db.Close()); err != nil {
		return 0, err
	}
	return w.tests.Run(), nil
}

// executeStatement runs a statement in the database postgres.
func executeStatement(ctx context.Context, statement string) error {
	db, err := database.Open(server.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

// newDatabase copies a database and returns the URL of the copy. No code drops the copy, because the server is temporary.
func newDatabase(original string) (string, error) {
	name := fmt.Sprintf("test_%d", databaseCount.Add(1))
	err := executeStatement(context.Background(), "CREATE DATABASE "+name+" TEMPLATE "+original)
	return server.URL(name), err
}

// Each script has its own migrated database in $KEYWICKET_DATABASE_URL. The scripts have these commands in addition to those of
// testscript:
//
//	refused STATUS args...   keywicket must exit with this status, print nothing to stdout, and print one error line
//	                         (or one line for each policy error)
//	database empty|migrated  switches to a new database
//	keep NAME=key...         sets each variable NAME to the value of its key in the last printed object
//	keep-token               sets $TOKEN, $ID, $PREFIX, and $SECRET, the part of the token after $PREFIX
//	write FILE TEXT          writes the text into the file; \n and \r are line ends
//	session-token FILE USER  writes the token of the session s1 into the file, signed with the secret of sessions.yaml
//	sql STATEMENT            runs the statement in the script's database
//	ready ADDRESS            waits until /readyz returns 200
//
// $ADDRESS is the host and port of the Postgres server, $TAKEN is an address in use, and $POLICIES is the folder of the built-in
// policies.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"refused": refused, "database": createDatabase, "keep": keep, "keep-token": keepToken, "ready": ready,
			"write": write, "session-token": sessionToken, "sql": runSQL,
		},
	})
}

func setup(e *testscript.Env) error {
	url, err := newDatabase(migratedTemplate)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	e.Defer(func() { _ = listener.Close() })
	e.Setenv("KEYWICKET_DATABASE_URL", url)
	e.Setenv("TAKEN", listener.Addr().String())
	policies, err := filepath.Abs("../../policies")
	if err != nil {
		return err
	}
	e.Setenv("POLICIES", policies)
	_, rest, _ := strings.Cut(url, "@")
	address, _, _ := strings.Cut(rest, "/")
	e.Setenv("ADDRESS", address)
	// With the race detector, a program waits for a second before it exits. This setting disables the wait.
	e.Setenv("GORACE", "atexit_sleep_ms=0")
	return nil
}

func refused(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("keywicket", args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("got %v, want the exit status %d; stderr: %s", err, want, ts.ReadFile("stderr"))
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout: %s", out)
	}
	stderr := ts.ReadFile("stderr")
	line, more, _ := strings.Cut(stderr, "\n")
	if !strings.HasPrefix(line, "keywicket: ") {
		ts.Fatalf("stderr is not an error message: %s", stderr)
	}
	for line := range strings.Lines(more) {
		if !strings.HasPrefix(line, "keywicket: policies (") { // only policy errors have several lines
			ts.Fatalf("stderr is not one line: %s", stderr)
		}
	}
}

func createDatabase(ts *testscript.TestScript, _ bool, args []string) {
	templates := map[string]string{"empty": emptyTemplate, "migrated": migratedTemplate}
	url, err := newDatabase(templates[args[0]])
	ts.Check(err)
	ts.Setenv("KEYWICKET_DATABASE_URL", url)
}

func keep(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	for _, arg := range args {
		name, key, _ := strings.Cut(arg, "=")
		value, ok := object[key].(string)
		if !ok {
			ts.Fatalf("%s is not a string: %v", key, object[key])
		}
		ts.Setenv(name, value)
	}
}

func keepToken(ts *testscript.TestScript, _ bool, _ []string) {
	keep(ts, false, []string{"TOKEN=token", "ID=id", "PREFIX=prefix"})
	secret, ok := strings.CutPrefix(ts.Getenv("TOKEN"), ts.Getenv("PREFIX"))
	if !ok || len(secret) < 30 {
		ts.Fatalf("the token does not start with its visible prefix %s", ts.Getenv("PREFIX"))
	}
	ts.Setenv("SECRET", secret)
}

func ready(ts *testscript.TestScript, _ bool, args []string) {
	if err := awaitProbe(args[0], "/readyz"); err != nil {
		ts.Fatalf("%v", err)
	}
}

func write(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(args[1])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

func sessionToken(ts *testscript.TestScript, _ bool, args []string) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	claims := supabase.Claims(args[1], supabase.Fields{
		"session_id": "s1", "iat": at, "amr": []supabase.Fields{{"method": "password", "timestamp": at}},
		"exp": time.Date(2999, 1, 31, 12, 0, 0, 0, time.UTC).Unix(),
	})
	token := supabase.Sign(jose.HS256, []byte(strings.Repeat("0123456789-", 3)), "", claims)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(token), 0o600))
}

func runSQL(ts *testscript.TestScript, _ bool, args []string) {
	db, err := database.Open(ts.Getenv("KEYWICKET_DATABASE_URL"))
	ts.Check(err)
	_, err = db.Exec(args[0])
	ts.Check(errors.Join(err, db.Close()))
}
