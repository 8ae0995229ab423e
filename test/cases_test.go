package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

// The cases are the sentences of the two API documents, written by hand as scenarios in cases/NAME.yaml. The comments in
// velaflows.yaml explain the format. Each request of a case runs in process and through Envoy.

// caseFile is one file: its shared objects and its cases. A case does not change the shared objects.
type caseFile struct {
	API        string
	Workspaces []struct{ ID, Slug, Name string }
	Users      []struct {
		ID, Email string
		Roles     map[string]string // workspace → role
	}
	Cases []scenario
}

// scenario is one case: the sentence of the document that it tests, and its steps.
type scenario struct {
	Name  string
	Seed  string // document:line
	Keys  map[string]caseKey
	Steps []step
}

// caseKey is a credential that exists when the case begins.
type caseKey struct {
	Prefix          string
	Workspace, User string
	Scopes          []string
	Token           string // an existing token of the product; empty: a new one is created
	Expired         bool
	Revoked         bool
	Session         bool // a session token of User
	OAuth           bool // an app's access token; User has granted Scopes to the app in Granted
	Granted         list // workspaces
}

// step is one of: requests, a command, a revocation, a wait for an expiry, a check of the stored row.
type step struct {
	Request        list
	Key            string  // name of the key whose token is sent
	Workspace      *string // the workspace header; a slug of the file's workspaces becomes the form that the header expects
	Headers        map[string]string
	Expect         string            // status and upstream, or status, code and reason
	RequiredScopes []string          `yaml:"required_scopes"`
	Seen           map[string]string // headers that the upstream receives; empty: the header is absent

	Keywicket  string              // arguments; --output json is added if As or Prints is set
	As         string              // name for the printed object; a token becomes a key of this name
	Prints     []map[string]string // each one matches one of the printed objects: field → regular expression
	Exit       int
	Stdout     list // regular expressions
	Stderr     list
	NotPrinted list          `yaml:"not_printed"`
	Within     time.Duration // how long to retry

	Revoke       string
	AwaitExpiry  string `yaml:"await_expiry"`
	StoredHashed string `yaml:"stored_hashed"`
}

// list is one string or several strings.
type list []string

func (l *list) UnmarshalYAML(decode func(any) error) error {
	var one string
	if decode(&one) == nil {
		*l = list{one}
		return nil
	}
	return decode((*[]string)(l))
}

// seedLines is the number of lines of each document.
var seedLines = map[string]int{"velaflows": 98, "velocity": 106}

func (s scenario) validate() error {
	document, text, _ := strings.Cut(s.Seed, ":")
	line, err := strconv.Atoi(text)
	if err != nil || line < 1 || line > seedLines[document] {
		return fmt.Errorf("the seed %q is not a line of a document", s.Seed)
	}
	if s.Name == "" || len(s.Steps) == 0 {
		return errors.New("a case needs a name and steps")
	}
	for i, st := range s.Steps {
		kinds := 0
		for _, is := range []bool{
			st.Request != nil, st.Keywicket != "", st.Revoke != "", st.AwaitExpiry != "", st.StoredHashed != "",
		} {
			if is {
				kinds++
			}
		}
		switch {
		case kinds != 1:
			return fmt.Errorf("step %d is not one of the kinds of steps", i+1)
		case (st.Request != nil) != (st.Expect != ""):
			return fmt.Errorf("step %d: expect is required for a request, and invalid for other steps", i+1)
		case strings.HasSuffix(st.Expect, " missing_scope") != (st.RequiredScopes != nil):
			return fmt.Errorf("step %d: required_scopes is required for missing_scope, and invalid for other outcomes", i+1)
		case st.Seen != nil && !strings.HasPrefix(st.Expect, "200 "):
			return fmt.Errorf("step %d: seen is valid only for an allowed request", i+1)
		}
	}
	return nil
}

// caseRun is the state of a running case.
type caseRun struct {
	file   caseFile
	client *http.Client
	// name → field → value: what ${name.field} expands to. A key has id, token, prefix and secret. secret is the token
	// without its visible prefix.
	names                   map[string]map[string]string
	checked, sent, commands int
}

func TestCases(t *testing.T) {
	files, err := filepath.Glob("cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no cases", err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var cases, checked, sent, commands int
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var file caseFile
		if err := strictyaml.Decode(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Run(filepath.Base(name), func(t *testing.T) {
			file.arrange(t)
			for _, s := range file.Cases {
				t.Run(s.Name, func(t *testing.T) {
					if err := s.validate(); err != nil {
						t.Fatal(err)
					}
					p := &caseRun{file: file, client: client, names: make(map[string]map[string]string)}
					p.run(t, s)
					cases, checked, sent, commands = cases+1, checked+p.checked, sent+p.sent, commands+p.commands
				})
			}
		})
	}
	t.Logf("%d cases, %d requests in process, %d through Envoy, %d commands", cases, checked, sent, commands)
}

// arrange creates the file's shared objects. At the end of the test it removes everything that the cases created. This
// includes the documents' own examples, which other files may use too.
func (f caseFile) arrange(t *testing.T) {
	db, err := database.Open(world.stack.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	var start time.Time
	if err := db.GetContext(t.Context(), &start, `SELECT clock_timestamp()`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, table := range []string{"workspaces", "users"} { // deletes their members and tokens too
			if _, err := db.ExecContext(context.Background(), `DELETE FROM keywicket.`+table+` WHERE created_at >= $1`, start); err != nil {
				t.Error(err)
			}
		}
		db.Close()
	})
	for _, w := range f.Workspaces {
		if _, err := world.registry.CreateWorkspace(t.Context(), registry.Workspace{ID: w.ID, Slug: w.Slug, Name: w.Name}); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range f.Users {
		if _, err := world.registry.CreateUser(t.Context(), registry.User{ID: u.ID, Email: u.Email}); err != nil {
			t.Fatal(err)
		}
		for workspace, role := range u.Roles {
			if _, err := world.registry.SetMember(t.Context(), workspace, u.ID, role); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (p *caseRun) run(t *testing.T, s scenario) {
	for name, k := range s.Keys {
		if k.Session {
			id := rand.Text()
			p.names[name] = map[string]string{"id": id, "token": world.issuer.Token(k.User, supabase.Fields{"session_id": id})}
			continue
		}
		if k.OAuth {
			issued := grant(t, k.User, k.Scopes, k.Granted...)
			p.names[name] = map[string]string{"id": issued.Grant, "token": issued.Access.Reveal()}
			continue
		}
		token, secret := k.make(t, name)
		p.names[name] = map[string]string{"id": token.ID, "token": secret, "prefix": token.Prefix}
	}
	for i, st := range s.Steps {
		var err error
		switch {
		case st.Request != nil:
			for _, r := range st.Request {
				if err = p.request(t, st, r); err != nil {
					err = fmt.Errorf("%s: %w", r, err)
					break
				}
			}
		case st.Keywicket != "":
			err = p.command(t, st)
		case st.Revoke != "":
			_, err = world.registry.RevokeToken(t.Context(), p.field(t, st.Revoke, "id"))
			time.Sleep(staleness)
		case st.AwaitExpiry != "":
			awaitExpiry(t, p.field(t, st.AwaitExpiry, "id"))
		case st.StoredHashed != "":
			err = p.storedHashed(t, st.StoredHashed)
		}
		if err != nil {
			t.Fatalf("step %d (%s): %v", i+1, s.Seed, err)
		}
	}
}

// field returns the value of ${name.field}.
func (p *caseRun) field(t *testing.T, name, field string) string {
	t.Helper()
	object := p.names[name]
	if field == "secret" && strings.HasPrefix(object["token"], object["prefix"]) {
		return object["token"][len(object["prefix"]):]
	}
	value, ok := object[field]
	if !ok {
		t.Fatalf("%s.%s is not defined", name, field)
	}
	return value
}

var reference = regexp.MustCompile(`\$\{(\w+)\.(\w+)\}`)

func (p *caseRun) expand(t *testing.T, text string) string {
	return reference.ReplaceAllStringFunc(text, func(r string) string {
		m := reference.FindStringSubmatch(r)
		return p.field(t, m[1], m[2])
	})
}

// request runs the request in process and then through Envoy, and requires the same outcome.
func (p *caseRun) request(t *testing.T, st step, line string) error {
	q := request{api: p.file.API}
	q.method, q.path, _ = strings.Cut(line, " ")
	if st.Key != "" {
		q.header = append(q.header, [2]string{"Authorization", "Bearer " + p.field(t, st.Key, "token")})
	}
	if st.Workspace != nil {
		q.header = append(q.header, [2]string{headerNames[q.api], p.file.reference(*st.Workspace)})
	}
	for _, name := range slices.Sorted(maps.Keys(st.Headers)) {
		q.header = append(q.header, [2]string{name, p.expand(t, st.Headers[name])})
	}
	status, rest, _ := strings.Cut(st.Expect, " ")
	outcome, reached := rest, int64(0)
	if status == "200" {
		outcome, reached = "allow", 1
	}
	p.checked++
	if err := q.check(t).hasOutcome(outcome, st.RequiredScopes...); err != nil {
		return err
	}
	before := served()
	a, _ := q.sendWithRetry(t, p.client)
	p.sent++
	if err := a.hasOutcome(outcome, st.RequiredScopes...); err != nil {
		return fmt.Errorf("through Envoy: %w", err)
	}
	switch got := served() - before; {
	case strconv.Itoa(a.status) != status:
		return fmt.Errorf("through Envoy: the status is %d, not %s", a.status, status)
	case got != reached:
		return fmt.Errorf("%s, and %d requests reached an upstream", st.Expect, got)
	case outcome == "allow" && a.echo.Upstream != rest:
		return fmt.Errorf("it reached the upstream %q, not %q", a.echo.Upstream, rest)
	}
	for name, want := range st.Seen {
		if got := strings.Join(a.echo.Headers[name], ", "); got != p.expand(t, want) {
			return fmt.Errorf("the upstream saw %s: %q, not %q", name, got, p.expand(t, want))
		}
	}
	return nil
}

func (f caseFile) reference(workspace string) string {
	for _, w := range f.Workspaces {
		if w.Slug == workspace && f.API == "velaflows" {
			return w.ID
		}
	}
	return workspace
}

var argument = regexp.MustCompile(`'[^']*'|\S+`)

// command runs the product's binary as an operator does.
func (p *caseRun) command(t *testing.T, st step) error {
	var args []string
	for _, a := range argument.FindAllString(st.Keywicket, -1) {
		args = append(args, p.expand(t, strings.Trim(a, "'")))
	}
	asJSON := st.As != "" || st.Prints != nil
	if asJSON {
		args = append(args, "--output", "json")
	}
	deadline := time.Now().Add(st.Within)
	for {
		var stdout, stderr bytes.Buffer
		command := exec.CommandContext(t.Context(), world.binary, args...)
		command.Env = append(os.Environ(), "KEYWICKET_DATABASE_URL="+world.stack.DatabaseURL(),
			"GORACE=atexit_sleep_ms=0") // the race detector would make each command a second longer
		command.Stdout, command.Stderr = &stdout, &stderr
		if err := command.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			return err
		}
		p.commands++
		err := p.printed(t, st, command.ProcessState.ExitCode(), stdout.String(), stderr.String())
		if err == nil {
			time.Sleep(staleness) // the command may have changed something
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("keywicket %s: %w; on standard output:\n%s\non standard error:\n%s", strings.Join(args, " "), err, &stdout, &stderr)
		}
	}
}

func (p *caseRun) printed(t *testing.T, st step, exit int, stdout, stderr string) error {
	if exit != st.Exit {
		return fmt.Errorf("the exit status is %d, not %d", exit, st.Exit)
	}
	matchAll := func(text string, patterns list) error {
		for _, pattern := range patterns {
			if ok, err := regexp.MatchString(p.expand(t, pattern), text); err != nil || !ok {
				return errors.Join(err, fmt.Errorf("nothing matches %s", p.expand(t, pattern)))
			}
		}
		return nil
	}
	if err := errors.Join(matchAll(stdout, st.Stdout), matchAll(stderr, st.Stderr)); err != nil {
		return err
	}
	for _, text := range st.NotPrinted {
		if strings.Contains(stdout+stderr, p.expand(t, text)) {
			return fmt.Errorf("it prints %s", p.expand(t, text))
		}
	}
	if st.As == "" && st.Prints == nil {
		return nil
	}
	objects, err := objectsOf(stdout)
	if err != nil {
		return err
	}
	if st.As != "" {
		p.names[st.As] = objects[0]
	}
	for _, want := range st.Prints {
		if !slices.ContainsFunc(objects, func(o map[string]string) bool { return p.matches(t, o, want) }) {
			return fmt.Errorf("no object has %v", want)
		}
	}
	return nil
}

func (p *caseRun) matches(t *testing.T, object, want map[string]string) bool {
	for field, pattern := range want {
		value, ok := object[field]
		pattern = p.expand(t, pattern)
		if days, isDate := strings.CutPrefix(pattern, "in days: "); isDate { // with a tolerance of one minute
			n, err := strconv.Atoi(days)
			at, err2 := time.Parse(time.RFC3339, value)
			if errors.Join(err, err2) != nil || time.Until(at.AddDate(0, 0, -n)).Abs() > time.Minute {
				return false
			}
		} else if !ok || !regexp.MustCompile(`^(`+pattern+`)$`).MatchString(value) {
			return false
		}
	}
	return true
}

// objectsOf decodes one JSON object or an array of objects. The values of a list are joined with spaces.
func objectsOf(text string) ([]map[string]string, error) {
	var raw []map[string]any
	if !strings.HasPrefix(strings.TrimSpace(text), "[") {
		text = "[" + text + "]"
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, errors.New("no object is printed")
	}
	objects := make([]map[string]string, len(raw))
	for i, o := range raw {
		objects[i] = make(map[string]string, len(o))
		for field, value := range o {
			if value == nil {
				value = "null"
			}
			objects[i][field] = strings.Trim(fmt.Sprint(value), "[]")
		}
	}
	return objects, nil
}

// storedHashed searches the key's whole row. The row has the key's SHA-256, and no part of the key beyond its visible
// prefix.
func (p *caseRun) storedHashed(t *testing.T, key string) error {
	db, err := database.Open(world.stack.DatabaseURL())
	if err != nil {
		return err
	}
	defer db.Close()
	var hashed, inClear bool
	err = db.QueryRowContext(t.Context(), `
		SELECT digest = sha256(convert_to($2, 'UTF8')), strpos(t::text, $3) > 0 FROM keywicket.tokens t WHERE id = $1`,
		p.field(t, key, "id"), p.field(t, key, "token"), p.field(t, key, "secret")).Scan(&hashed, &inClear)
	if err == nil && (!hashed || inClear) {
		err = fmt.Errorf("stored as SHA-256: %t; in clear: %t", hashed, inClear)
	}
	return err
}

// challenges: outcome → WWW-Authenticate; %s is the required scopes. WORKSPACE_ACCESS_DENIED has no challenge.
var challenges = map[string]string{
	"UNAUTHORIZED missing":    `Bearer realm="keywicket"`,
	"UNAUTHORIZED malformed":  `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED unknown":    `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED expired":    `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED revoked":    `Bearer realm="keywicket", error="invalid_token"`,
	"FORBIDDEN missing_scope": `Bearer error="insufficient_scope", scope="%s"`,
	"FORBIDDEN no_route":      `Bearer error="insufficient_scope"`,
}

var statuses = map[string]int{"allow": 200, "UNAUTHORIZED": 401, "FORBIDDEN": 403, "WORKSPACE_ACCESS_DENIED": 403}

// hasOutcome returns an error if the answer differs from the design's table of answers. Only missing_scope reports the
// required scopes.
func (a answer) hasOutcome(outcome string, required ...string) error {
	if outcome != "FORBIDDEN missing_scope" {
		required = nil
	}
	told := a.requiredScopes
	inProcess := a.header == nil
	if inProcess && required == nil {
		told = nil // in process they are always set
	}
	switch {
	case a.outcome != outcome:
		return fmt.Errorf("%s, not %s", a.outcome, outcome)
	case !slices.Equal(told, required):
		return fmt.Errorf("%s: the required scopes are %q, not %q", outcome, told, required)
	case inProcess:
		return nil
	}
	code, _, _ := strings.Cut(outcome, " ")
	challenge := strings.ReplaceAll(challenges[outcome], "%s", strings.Join(required, " "))
	switch {
	case a.status != statuses[code]:
		return fmt.Errorf("%s has the status %d, not %d", outcome, a.status, statuses[code])
	case a.header.Get("Content-Type") != "application/json":
		return fmt.Errorf("%s has the type %q", outcome, a.header.Get("Content-Type"))
	case a.header.Get("WWW-Authenticate") != challenge:
		return fmt.Errorf("%s: WWW-Authenticate is %q, not %q", outcome, a.header.Get("WWW-Authenticate"), challenge)
	}
	return nil
}

// sendWithRetry sends the request, and retries if the answer is 503. On a busy machine a look-up may exceed its 200 ms, and 503 is
// then a correct answer. unavailable is the number of 503 answers that led to a retry.
func (r request) sendWithRetry(t testing.TB, client *http.Client) (a answer, unavailable int64) {
	t.Helper()
	for a = r.send(t, client); a.status == http.StatusServiceUnavailable && unavailable < 3; unavailable++ {
		a = r.send(t, client)
	}
	return a, unavailable
}

func formatOf(prefix string) (api string, f authz.CredentialFormat) {
	for name, a := range apis {
		if found, ok := a.Format(prefix); ok {
			return name, found
		}
	}
	return "", f
}

// make creates the key. For an expired key it waits until the key has expired.
func (k caseKey) make(t testing.TB, name string) (registry.Token, string) {
	t.Helper()
	n := registry.NewToken{Name: name, Scopes: k.Scopes, Workspace: k.Workspace, User: k.User, Key: authz.Secret(k.Token)}
	if k.Expired {
		n.ExpiresIn = new(time.Millisecond)
	}
	token, secret := newToken(t, k.Prefix, n)
	if k.Expired {
		awaitExpiry(t, token.ID)
	}
	if k.Revoked {
		if _, err := world.registry.RevokeToken(t.Context(), token.ID); err != nil {
			t.Fatal(err)
		}
	}
	return token, secret
}

func newToken(t testing.TB, prefix string, n registry.NewToken) (registry.Token, string) {
	t.Helper()
	n.API, n.Format = formatOf(prefix)
	token, secret, err := world.registry.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return token, secret.Reveal()
}

// awaitExpiry returns when the token has expired by the database's clock.
func awaitExpiry(t testing.TB, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		token, err := world.registry.Token(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if token.Status == registry.Expired {
			return
		}
	}
}
