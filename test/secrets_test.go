package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/test/supabase"
)

// traces maps each run of 12 characters of a secret, in every encoding, to the secret's name. It finds parts of a secret,
// and needs one pass over a text. It leaves out the part that a token may show.
type traces map[string]string

const trace = 12

func (known traces) add(name string, forms ...string) {
	for _, form := range forms {
		for i := range len(form) - trace + 1 {
			known[form[i:i+trace]] = name
		}
	}
}

func (known traces) addToken(token, visible string) {
	hidden := strings.TrimPrefix(token, visible)
	known.add("the token "+visible+"…", append(encodings([]byte(hidden)), hidden)...)
	known.addDigest(token)
}

func (known traces) addDigest(token string) {
	digest := authz.Secret(token).Digest()
	known.add("a digest", encodings(digest[:])...)
}

// encodings returns the bytes in hex (as in Postgres's bytea), as lists of numbers of Go and JSON, and in base64 at each of
// the three alignments.
func encodings(b []byte) []string {
	list := fmt.Sprintf("%d", b)
	forms := []string{fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), list, strings.ReplaceAll(list, " ", ",")}
	for begin := range 3 {
		whole := b[begin : len(b)-(len(b)-begin)%3]
		forms = append(forms, base64.StdEncoding.EncodeToString(whole), base64.URLEncoding.EncodeToString(whole))
	}
	return forms
}

// in reports the secrets that it finds, each with its line.
func (known traces) in(text string) (found []string) {
	for line := range strings.Lines(text) {
		for i := range len(line) - trace + 1 {
			if name, ok := known[line[i:i+trace]]; ok && !slices.Contains(found, name+": "+line) {
				found = append(found, name+": "+line)
			}
		}
	}
	return found
}

// leakStack is a stack of which every readable output is recorded.
type leakStack struct {
	*demo.Stack
	log     syncbuffer.Buffer
	wire    *wire
	client  *http.Client
	secrets traces
	shown   []string            // output of the command that shows a token
	seen    map[string][]string // by source
	fill    *strings.Replacer   // of the words in capitals below
}

func newLeakStack(t *testing.T, c demo.Config) *leakStack {
	t.Helper()
	s := &leakStack{secrets: traces{}, seen: map[string][]string{}}
	c.Log = &s.log
	s.Stack = separateStack(t, c)
	s.wire, s.client = newWire(t, s.Stack, 1)
	return s
}

func (s *leakStack) see(what, text string) { s.seen[what] = append(s.seen[what], text) }

// run runs a command, and checks whether it succeeds.
func (s *leakStack) run(t *testing.T, succeeds bool, stdin string, args ...string) (stdout string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := command(ctx, s.Stack, args...)
	if slices.Contains(args, "--config") {
		c.Env = append(c.Env, "KEYWICKET_DATABASE_URL=") // so that the file's URL is used
	}
	var out, said bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &said
	err := c.Run()
	if (err == nil) != succeeds || ctx.Err() != nil {
		t.Errorf("keywicket %s: %v: %s", strings.Join(args, " "), err, &said)
	}
	s.see("standard error of commands", said.String())
	return out.String()
}

// create creates a token, whose key is shown only this once.
func (s *leakStack) create(t *testing.T, prefix string, more ...string) (made issued) {
	t.Helper()
	args := append([]string{"token", "create", "--name", "n", "--prefix", prefix, "--output", "json"}, more...)
	out := s.run(t, true, "", args...)
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	s.shown = append(s.shown, out)
	s.secrets.addToken(made.Token, made.Prefix)
	return made
}

const unavailable = "UNAVAILABLE unavailable"

// send sends a request and records the response. Of the upstream's echo it leaves out the other headers of the client, and
// the credential on a public route, which Envoy passes on.
func (s *leakStack) send(t *testing.T, r request, outcome string) {
	t.Helper()
	var a answer
	await(t, "an answer", func() bool {
		a = r.send(t, s.client)
		s.see("headers of answers", fmt.Sprint(a.header))
		if a.outcome != "allow" {
			s.see("bodies of answers", string(s.wire.last))
		}
		return a.outcome != unavailable || outcome == unavailable // on a slow machine look-ups time out
	})
	if a.outcome != outcome {
		t.Errorf("%s %s with %v: %s, not %s", r.method, r.path, r.header, a.outcome, outcome)
	}
	for _, h := range r.header {
		s.secrets.addDigest(strings.TrimPrefix(h[1], "Bearer "))
		if h[0] != "Authorization" || a.echo.Headers["x-keywicket-subject"] == nil {
			delete(a.echo.Headers, strings.ToLower(h[0]))
		}
	}
	s.see("headers at the upstream", fmt.Sprint(a.echo.Headers))
}

func (s *leakStack) fetch(t *testing.T, address string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		response, err := s.client.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		s.see(path, string(s.wire.last))
	}
}

const inspections = `token list
token list --limit 1 --prefix SECRET
token list --output json --workspace HOME
token revoke GONE
token revoke GONE --output json
explain GET /api/v1/inbox/conversations --token-id GONE
explain GET /api/v1/tags --token-id LIVE --workspace SECRET --output json
explain GET /api/v1/tags --scope tags:read --workspace SECRET`

// mistakes are commands with a secret in the wrong place.
const mistakes = `token revoke SECRET
token list SECRET
token list --token SECRET
token list --token=SECRET
token list --SECRET
token list --limit=SECRET
token list --output=SECRET
token list --workspace SECRET
token list --user SECRET
token list --prefix xSECRET
token create --prefix SECRET --workspace HOME --name n --scope inbox:read
token create --prefix sk_live_ --api SECRET --workspace HOME --name n --scope inbox:read
token create --prefix sk_live_ --workspace HOME --name n --scope inbox:read,SECRET
token create --prefix sk_live_ --workspace HOME --name n --scope inbox:read --expires-in SECRET
token create --prefix vel_ --workspace HOME --name n --access SECRET
token import --prefix sk_live_ --format=SECRET
session revoke JWT
session revoke SECRET
session revoke JWT JWT
session revoke --user JWT
session revoke --user SECRET
session JWT
token revoke JWT
token list --prefix JWT
token list --user=JWT
token create --prefix JWT --workspace HOME --name n --scope inbox:read
explain GET / --token-id JWT
explain GET / --scope JWT
workspace create --slug JWT --name n
workspace create --slug SECRET --name n
workspace create --slug n --name n --id=SECRET
user create --email SECRET
member set --workspace HOME --user ada@example.com --role SECRET
explain GET / --token-id SECRET
explain GET / --scope SECRET --api velaflows
serve --listen-grpc SECRET
serve --policies-dir SECRET
serve --config SECRET
serve --database-url SECRET
serve --database-url postgres://postgres:PASSWORD@ADDRESS:notaport/postgres
serve --database-url=postgres://postgres:PASSWORD%zz@ADDRESS/postgres
serve --database-url=postgres://postgres:a/PASSWORD@ADDRESS/postgres
token list --database-url postgres://postgres:PASSWORD@ADDRESS/postgres
token list --database-url postgres://postgres:PASSWORD@127.0.0.1:1/postgres
migrate status postgres://postgres:PASSWORD@ADDRESS/postgres
migrate status host=127.0.0.1 password=PASSWORD`

// misconfigurations are files with which a sidecar refuses to start.
var misconfigurations = []string{
	"database: {url: 'postgres://postgres:PASSWORD@ADDRESS:notaport/postgres'}",
	"database: {url: 'host=127.0.0.1 password=PASSWORD sslmode=sometimes'}",
	"database: {url: 'host=127.0.0.1 password=a PASSWORD'}",
	"database: {url: postgres://postgres:a,PASSWORD@ADDRESS/postgres}", // YAML ends the value at the comma
	"database: {url: postgres://postgres:PASSWORD@ADDRESS/postgres",
	"database: postgres://postgres:PASSWORD@ADDRESS/postgres",
	"database: {max_open_connections: PASSWORD}",
	"apis: {velocity: {session: {issuer: i, hs256_secret: PASSWORD}}}", // too short
	"apis: {velocity: {workspace: {header: x, by: slug}, credentials: [{kind: workspace_key, prefix: vel_}], session: {issuer: i, hs256_secret: PASSWORD}}}",
	"apis: {velocity: {session: {hs256_secret: a long enough secret, PASSWORD}}}",
	"apis: {velocity: {session: PASSWORD}}",
	"apis: {velocity: {workspace: {header: x, by: slug}, credentials: [{kind: workspace_key, prefix: vel_}], session: {issuer: i, jwks_url: 'ftp://u:PASSWORD@ADDRESS'}}}",
}

// imports are a product's own keys, in every format. badImports contain a line that cannot be imported.
var imports = map[string]string{
	"csv": "token,digest,prefix,name,scopes,workspace,revoked_at\n" +
		"FIRST,,,n,inbox:read,HOME,\n,DIGEST_SECOND,VISIBLE_SECOND,n,inbox:read,HOME,\nTHIRD,,,n,inbox:read,HOME,2020-01-01T00:00:00Z\n",
	"ndjson": `{"token":"FOURTH","name":"n","scopes":["inbox:read"],"workspace":"HOME"}` + "\n" +
		`{"digest":"DIGEST_FIFTH","prefix":"VISIBLE_FIFTH","name":"n","scopes":["inbox:read"],"workspace":"HOME"}` + "\n",
}

var badImports = map[string][]string{
	"csv": {
		"BAD,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n\n\"BAD,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n,BAD,HOME\nBAD,n,inbox:read,BAD\nn,BAD,inbox:read,HOME\nBAD\xff,n,inbox:read,HOME\n",
		"token,name,scopes,workspace\nBAD,n,inbox:read,HOME\nBAD,n,inbox:read,HOME\nFIRST,n,inbox:read,HOME\n",
		"token,digest,name,scopes,workspace,expires_at\nBAD,DIGEST_BAD,n,inbox:read,HOME,\nBAD,,n,inbox:read,HOME,BAD\n,BAD,n,inbox:read,HOME,\n",
		"digest,prefix,name,scopes,workspace\nDIGEST_BAD,BAD,n,inbox:read,HOME\nDIGEST_BADDIGEST_BAD,sk_live_,n,inbox:read,HOME\n",
	},
	"ndjson": {
		`{"BAD":"token"}`, `{"token":"BAD"`, "BAD", `{"token":["BAD"]}`, `{"digest":"DIGEST_BAD","scopes":"BAD"}`,
		`{"token":"BAD","name":"n","scopes":["BAD"],"workspace":"BAD"}`,
	},
}

// Row 36 of docs/security.md.
func TestSecretsStaySecret(t *testing.T) {
	is, guess := supabase.Start(), rand.Text()
	defer is.Close()
	s := newLeakStack(t, demo.Config{
		Environ: append(is.Environ(), "KEYWICKET_LOG_LEVEL=debug", "KEYWICKET_LOG_ALLOW_SAMPLE=1",
			"KEYWICKET_APIS_VELOCITY_SESSION_JWKS_URL="+strings.Replace(is.URL, "//", "//keywicket:"+guess+"@", 1)+"?apikey="+guess),
		// Logs every statement without its parameters: the SQL itself never holds a secret.
		PostgresSettings: map[string]string{
			"log_min_duration_statement": "0", "log_parameter_max_length": "0", "log_parameter_max_length_on_error": "0",
		},
	})
	// The demo's own statement is an exception, so the search begins after it.
	login := regexp.MustCompile(`PASSWORD '(\w+)'.*\n`).FindStringSubmatch(s.log.String())
	admin := regexp.MustCompile(`:(\w+)@([^/]+)/`).FindStringSubmatch(s.DatabaseURL())
	if login == nil || admin == nil {
		t.Fatal("the passwords of the database are not found in their places")
	}
	s.secrets.add("a password", admin[1], login[1], guess)
	s.secrets.add("an issuer's secret", append(encodings([]byte(is.Secret)), is.Secret)...)

	home, other := tenant(t, s.Stack), tenant(t, s.Stack)
	s.run(t, true, "", "user", "create", "--id", "ada", "--email", "ada@example.com")
	s.run(t, true, "", "member", "set", "--workspace", home.Slug, "--user", "ada@example.com", "--role", "member")
	live := s.create(t, "sk_live_", "--workspace", home.Slug, "--scope", "inbox:read")
	sandbox := s.create(t, "sk_test_", "--workspace", home.Slug, "--scope", "inbox:read")
	brief := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read", "--expires-in", "1ms")
	gone := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read")
	vel := s.create(t, "vel_", "--workspace", home.ID, "--access", "read")
	velu := s.create(t, "velu_", "--user", "ada@example.com", "--scope", "user:read,issues:read")
	words := []string{"SECRET", live.Token, "LIVE", live.ID, "GONE", gone.ID, "HOME", home.Slug, "PASSWORD", guess, "ADDRESS", admin[2]}
	old := map[string]string{} // keys that a product has issued before
	_, format := formatOf("sk_live_")
	for _, name := range []string{"FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH", "RACED", "BAD", "UNKNOWN"} {
		key := authz.Secret("sk_live_" + rand.Text())
		old[name] = key.Reveal()
		s.secrets.addToken(key.Reveal(), format.Visible(key))
		words = append(words, name, key.Reveal(), "VISIBLE_"+name, format.Visible(key), "DIGEST_"+name, fmt.Sprintf("%x", key.Digest()))
	}
	session := func(change supabase.Fields) string {
		token := is.Token("ada", change)
		s.secrets.addToken(token, "")
		return token
	}
	web, signedOut := session(nil), session(supabase.Fields{"session_id": "over"})
	forged := web[:len(web)-12] + strings.Repeat("A", 12)
	stranger := supabase.Sign(jose.ES256, is.EC, "nobody's", supabase.Claims("ada", nil))
	s.secrets.addToken(stranger, "")
	s.run(t, true, "", "session", "revoke", "over")
	s.fill = strings.NewReplacer(append(words, "JWT", web)...)
	s.operate(t)
	s.importBeside(t, old["RACED"])

	chat := func(token string, more ...[2]string) request {
		return ask("velaflows", conversations, token, home.ID, more...)
	}
	with := func(authorization string) request { return chat("", [2]string{"Authorization", authorization}) }
	var misplaced [][2]string
	for _, name := range []string{
		"Cookie", "X-Api-Key", "Proxy-Authorization", "User-Agent", "Referer", "X-Request-Id", "X-Forwarded-For", "Traceparent",
	} {
		misplaced = append(misplaced, [2]string{name, live.Token})
	}
	const token = "?access_token="
	for outcome, requests := range map[string][]request{
		"allow": {
			chat(live.Token), chat(sandbox.Token), chat(old["FIRST"]), chat(old["SECOND"]), chat(old["FOURTH"]), chat(old["FIFTH"]),
			ask("velocity", "GET /api/issues", vel.Token, ""), ask("velocity", "GET /api/issues", velu.Token, home.Slug),
			ask("velocity", "GET /api/user", velu.Token, ""), ask("velaflows", "GET /healthz", live.Token, home.ID),
			ask("velocity", "GET /api/user", web, ""), ask("velocity", "GET /api/issues", web, home.Slug),
			chat(live.Token, misplaced...), ask("velaflows", conversations+token+live.Token, live.Token, home.ID),
		},
		"UNAUTHORIZED missing": {
			chat(""), with(live.Token), with("Basic " + live.Token), with("Token " + live.Token), chat("", misplaced...),
			ask("velaflows", conversations+token+live.Token, "", home.ID),
		},
		"UNAUTHORIZED malformed": {
			chat(live.Token[:20]), chat(live.Token + "," + vel.Token), chat(strings.Repeat(live.Token, 20)),
			chat(live.Token, [2]string{"Authorization", "Bearer " + vel.Token}),
		},
		"UNAUTHORIZED unknown": {
			ask("velocity", "GET /api/user", forged, ""), ask("velocity", "GET /api/user", stranger, ""), chat(web), chat(old["UNKNOWN"]), chat(live.Token[:40]), chat(live.Token + "x"), chat(vel.Token),
		},
		"UNAUTHORIZED expired":                       {chat(brief.Token), ask("velocity", "GET /api/user", session(supabase.Fields{"exp": 1}), "")},
		"UNAUTHORIZED revoked":                       {chat(gone.Token), chat(old["THIRD"]), ask("velocity", "GET /api/user", signedOut, "")},
		"WORKSPACE_ACCESS_DENIED workspace_required": {ask("velaflows", conversations, live.Token, "")},
		"WORKSPACE_ACCESS_DENIED workspace_mismatch": {
			ask("velaflows", conversations, live.Token, other.ID), ask("velaflows", conversations, live.Token, live.Token),
			ask("velocity", "GET /api/issues", vel.Token, vel.Token),
		},
		"FORBIDDEN missing_scope":     {ask("velaflows", "DELETE /api/v1/crm/leads/7", live.Token, home.ID)},
		"FORBIDDEN no_route":          {ask("velaflows", "GET /api/v1/"+live.Token, live.Token, home.ID)},
		"BAD_REQUEST bad_request":     {ask("velaflows", "GET /a%2f"+live.Token+token+live.Token, live.Token, home.ID)},
		"HEADERS_TOO_LARGE too_large": {chat(strings.Repeat(live.Token, 400))},
	} {
		for _, r := range requests {
			s.send(t, r, outcome)
		}
	}
	s.checkDirectly(t, live.Token, home.ID)
	is.CloseClientConnections()
	is.Close()
	cold := issuedNowhere() // the other keys are cached, and need no database
	s.secrets.addToken(cold, cold[:len("sk_live_")])
	s.fail(t, chat(cold))
	if err := s.Close(); err != nil { // the logs end
		t.Fatal(err)
	}

	// A path is the client's own text, up to the query.
	_, log, _ := strings.Cut(regexp.MustCompile(`"path":"[^"?]*`).ReplaceAllString(s.log.String(), ""), login[0])
	s.see("the logs", log)
	for _, what := range slices.Sorted(maps.Keys(s.seen)) {
		for _, found := range s.secrets.in(strings.Join(s.seen[what], "\n")) {
			t.Errorf("%s show %s", what, found)
		}
	}

	// The texts contain the expected lines, and the search finds a secret in them.
	decision := regexp.MustCompile(`"msg":"decision","decision_id":"(\w+)".*"route":"GET /api/user","allow":true`).FindStringSubmatch(log)
	if decision == nil {
		t.Fatal("the logs have no line of the sidecar")
	}
	evidence := log + strings.Join(slices.Concat(s.seen["/metrics"], s.seen["/stats"]), "")
	for whose, line := range map[string]string{
		"Envoy":             `"decision_id":"` + decision[1] + `","details":"via_upstream"`,
		"Postgres":          `duration: .* execute .*\n\s*SELECT .*pg_postmaster_start_time`,
		"a failed look-up":  `"msg":"decision".*"error":"look up the credential: `,
		"a forged key id":   `"msg":"decision".*"route":"GET /api/user".*"reason":"unknown"`,
		"the sidecar's end": `the usage of \d+ tokens is lost`,
		"its metrics":       `keywicket_checks_total\{.*reason="revoked"\}`,
		"Envoy's":           `ext_authz\.denied: [1-9]`,
	} {
		if !regexp.MustCompile(line).MatchString(evidence) {
			t.Errorf("no line of %s was recorded", whose)
		}
	}
	for _, out := range s.shown {
		if len(s.secrets.in(out)) != 1 {
			t.Errorf("the search does not find the token in %s", out)
		}
	}
	findsLeaks(t)
}

// operate runs operators' commands, correct and wrong ones.
func (s *leakStack) operate(t *testing.T) {
	t.Helper()
	run := func(succeeds bool, stdin string, args ...string) {
		t.Helper()
		s.see("standard output of commands", s.run(t, succeeds, s.fill.Replace(stdin), args...))
	}
	for _, format := range []string{"csv", "ndjson"} {
		args := []string{"token", "import", "--prefix", "sk_live_", "--format", format}
		run(true, imports[format], args...)
		for _, text := range badImports[format] {
			run(false, text, args...)
		}
	}
	for line := range strings.Lines(inspections) {
		run(true, "", strings.Fields(s.fill.Replace(line))...)
	}
	for line := range strings.Lines(mistakes) {
		run(false, "", strings.Fields(s.fill.Replace(line))...)
	}
	for _, text := range misconfigurations {
		file := filepath.Join(t.TempDir(), "keywicket.yaml")
		appendTo(t, file, s.fill.Replace(text))
		run(false, "", "serve", "--config", file)
	}
}

// importBeside runs an import while another client creates one of its tokens: Postgres logs what it refuses.
func (s *leakStack) importBeside(t *testing.T, key string) {
	t.Helper()
	db := openDatabase(t, s.Stack)
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	digest := authz.Secret(key).Digest()
	_, err = tx.ExecContext(t.Context(), `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velaflows', 'workspace_token', 'live', 'sk_live_', $1, 'n', '{}', max(id) FROM keywicket.workspaces`, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() {
		committed <- errors.Join(awaited(t.Context(), "the import waits for the other transaction", func() bool {
			var waiting bool
			err := db.GetContext(t.Context(), &waiting, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`)
			return err == nil && waiting
		}), tx.Commit())
	}()
	s.run(t, false, s.fill.Replace("token,name,scopes,workspace\nRACED,n,inbox:read,HOME\n"), "token", "import", "--prefix", "sk_live_")
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
}

// checkDirectly sends checks as a PEP that validates nothing.
func (s *leakStack) checkDirectly(t *testing.T, token, workspace string) {
	t.Helper()
	conn, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pdp := authv3.NewAuthorizationClient(conn)
	bearer := &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + token)}
	named := &corev3.HeaderValue{Key: "x-workspace-id", Value: workspace}
	for _, c := range []struct {
		api, path string
		header    []*corev3.HeaderValue
		want      string
	}{
		{"velaflows", "/api/v1/inbox/conversations", []*corev3.HeaderValue{bearer, named}, "allow"},
		{"velaflows", "/api/v1/inbox/conversations", []*corev3.HeaderValue{bearer, bearer, named}, "401 UNAUTHORIZED malformed"},
		{"velaflows", "/" + token + "\x00?access_token=" + token, []*corev3.HeaderValue{bearer, named}, "403 FORBIDDEN no_route"},
		{"velaflows", token, []*corev3.HeaderValue{{Key: token, Value: token}}, "401 UNAUTHORIZED missing"},
		{"zoo", "/", []*corev3.HeaderValue{bearer}, "503 UNAVAILABLE unavailable"},
	} {
		request := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: "GET", Path: c.path, Host: token, HeaderMap: &corev3.HeaderMap{Headers: c.header},
			}},
			ContextExtensions: map[string]string{"api": c.api},
		}}
		await(t, c.api+" "+c.path+": "+c.want, func() bool {
			answer, err := pdp.Check(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			s.see("checks, with their metadata,", answer.String())
			return outcomeOf(t, answer) == c.want
		})
	}
}

// fail makes look-ups time out, fail, and find no server. The use of tokens is then lost.
func (s *leakStack) fail(t *testing.T, r request) {
	t.Helper()
	tx, err := openDatabase(t, s.Stack).BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE keywicket.tokens IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	s.send(t, r, unavailable)
	if err := errors.Join(tx.Rollback(), s.Postgres.Stop()); err != nil {
		t.Fatal(err)
	}
	s.send(t, r, unavailable)
	s.run(t, false, "", "token", "list")
	s.fetch(t, s.Sidecar.Operations, "/metrics", "/readyz", "/livez")
	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-s.Sidecar.Done()
	s.send(t, r, unavailable)
	s.fetch(t, s.Envoy.Admin(), "/stats", "/stats/prometheus", "/clusters", "/config_dump")
}

// findsLeaks checks that the search finds secrets in a stack that leaks them.
func findsLeaks(t *testing.T) {
	t.Helper()
	s := newLeakStack(t, demo.Config{
		Environ:          []string{"KEYWICKET_FORWARD_CREDENTIAL=true"},
		PostgresSettings: map[string]string{"log_min_duration_statement": "0"},
		EnvoyConfig: func(envoy []byte) []byte {
			return edited(t, envoy, "%REQ(:METHOD)%", "%REQ(AUTHORIZATION)%", 1)
		},
	})
	home := tenant(t, s.Stack)
	key := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read")
	s.send(t, ask("velaflows", conversations, key.Token, home.ID), "allow")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(s.secrets.in(s.log.String()+strings.Join(s.seen["headers at the upstream"], "\n")), "")
	for what, leak := range map[string]string{
		"Envoy's log":    `the token sk_live_.*"method":"Bearer`,
		"Postgres's log": `a digest: .*DETAIL: .*arameters: `,
		"the upstream":   `the token sk_live_.*authorization:\[Bearer `,
	} {
		if !regexp.MustCompile(leak).MatchString(found) {
			t.Errorf("the search misses a secret in %s; it finds %s", what, found)
		}
	}
}
