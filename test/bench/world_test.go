package bench

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store"
)

const workspaceSlug = "acme"

// Numbers of tokens. Behind each of them are some thousands or, behind the last, as many as a row asks for.
const (
	variedTokens  = 0           // each has another set of scopes, and issues:read
	pooredTokens  = 1_000_000   // lack issues:read
	unknownTokens = 2_000_000   // are not stored
	equalTokens   = 100_000_000 // have the same scopes
)

const turns = 2000 // tokens that take turns

// Scopes that the tokens differ by: of the workspace, but for what would stand for all of it, and of the user. A workspace's key can
// do nothing with the latter, but has them.
var (
	workspaceScopes = []string{"issues:write", "projects:read", "projects:write", "documents:read", "documents:write", "workspace:read"}
	userScopes      = []string{"user:read", "user:write", "workspaces:list", "workspaces:create", "workspaces:update", "workspaces:delete", "admin"}
)

// scopesOf are the set of a number, which is a bit for each scope.
func scopesOf(set int) (scopes []string) {
	for i, scope := range slices.Concat(workspaceScopes, userScopes) {
		if set&(1<<i) != 0 {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// sets of scopes, in all.
var sets = 1 << (len(workspaceScopes) + len(userScopes))

// smallSets are the n smallest sets.
func smallSets(n int) []int {
	all := upTo(sets)
	slices.SortStableFunc(all, func(a, b int) int { return bits.OnesCount(uint(a)) - bits.OnesCount(uint(b)) }) //nolint:gosec // some bits
	return all[:n]
}

// world is a Postgres with tokens, the binaries and the requests as Envoy sends them.
type world struct {
	server      *postgres.Server
	databaseURL string // of the sidecar's role
	db          *sqlx.DB
	binary      string // keywicket
	client      *client
	endpoints   []endpoint // of Velocity's table: those of a workspace that a token without workspace:admin may use
	needs       [][]string // their scopes
	forms       []form

	within *group // that servers are started in; nil: none
}

func newWorld(t testing.TB, binary string) *world {
	t.Helper()
	w := &world{binary: binary}
	if w.binary == "" {
		w.binary = build(t)
	}
	var err error
	w.server, err = postgres.Start(t.Context(), postgres.Config{Settings: map[string]string{
		"max_connections":           "200",
		"track_activity_query_size": "16384", // the look-up is read from there
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.server.Close() })
	w.fill(t, w.server.URL("postgres"))
	tables, err := policies.Tables(policies.Builtin)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tables["velocity"].Routes {
		if r.Public || r.Level == policies.LevelUser || slices.Contains(r.Scopes, "workspace:admin") {
			continue
		}
		w.endpoints = append(w.endpoints, endpoint{r.Method, withIDs(r.Path)})
		w.needs = append(w.needs, r.Scopes)
	}
	w.forms = capture(t, w.endpoints, false)
	w.client = startClient(t)
	return w
}

// withIDs has an {id} for each parameter.
func withIDs(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "{id}"
		}
	}
	return strings.Join(segments, "/")
}

// fill migrates the database and stores the tokens.
func (w *world) fill(t testing.TB, databaseURL string) {
	t.Helper()
	db, home := migrated(t, databaseURL)
	t.Cleanup(func() { _ = db.Close() })
	w.db = db
	var numbers []int64
	var scopes []string
	for set := range sets {
		numbers = append(numbers, int64(variedTokens+set))
		scopes = append(scopes, "{"+strings.Join(append([]string{"issues:read"}, scopesOf(set)...), ",")+"}")
	}
	for _, set := range smallSets(turns + 1)[1:] {
		numbers = append(numbers, int64(pooredTokens+set))
		scopes = append(scopes, "{"+strings.Join(scopesOf(set), ",")+"}")
	}
	if _, err := w.db.ExecContext(t.Context(), `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(('vel_' || lpad(n::text, 38, '0'))::bytea), 't', s::text[], $1
		FROM unnest($2::bigint[], $3::text[]) AS of (n, s)`, home, pq.Array(numbers), pq.Array(scopes)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.db.ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
	w.databaseURL = withRole(t, databaseURL)
}

// migrated opens a database, with the schema and a workspace in it.
func migrated(t testing.TB, databaseURL string) (db *sqlx.DB, workspace string) {
	t.Helper()
	db, err := store.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	registry, err := store.OpenRegistry(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = registry.Close() }()
	home, err := registry.CreateWorkspace(t.Context(), store.Workspace{Slug: workspaceSlug, Name: "Acme"})
	if err != nil {
		t.Fatal(err)
	}
	return db, home.ID
}

// withRole is the URL for the sidecar's role.
func withRole(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("role", "keywicket_sidecar")
	u.RawQuery = query.Encode()
	return u.String()
}

// server is a process that answers checks.
type server struct {
	*process.Process
	name       string
	address    string // of checks
	operations string // of keywicket
}

// keywicket starts one with the defaults, the settings, and the rows of its log read. A token that is warm stays so for the
// length of a row, so that what is measured is not now and then a look-up.
func (w *world) keywicket(t testing.TB, settings ...string) *server {
	t.Helper()
	free := freeAddresses(t, 2)
	s := &server{name: "keywicket", address: free[0], operations: free[1]}
	environ := slices.Concat(clean(), []string{
		"KEYWICKET_DATABASE_URL=" + w.databaseURL, "KEYWICKET_LISTEN_GRPC=" + s.address, "KEYWICKET_LISTEN_OPERATIONS=" + s.operations,
		"KEYWICKET_LISTEN_LAME_DUCK=0s", "KEYWICKET_CACHE_MAX_AGE=1h",
	}, settings)
	for _, setting := range settings {
		if at, ok := strings.CutPrefix(setting, "KEYWICKET_LISTEN_GRPC="); ok {
			s.address = at
		}
	}
	s.start(t, w.within, w.binary, []string{"serve"}, environ)
	s.await(t, "http://"+s.operations+"/readyz")
	return s
}

// noop starts a server that decides nothing. The file has the answer that it gives; empty: an allow.
func (w *world) noop(t testing.TB, address, answer string) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if address == "" {
		address = freeAddresses(t, 1)[0]
	}
	s := &server{name: "no-op", address: address}
	s.start(t, w.within, self, nil, append(clean(), noopVariable+"="+address, answerVariable+"="+answer))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		network, at := networkOf(address)
		if conn, err := net.Dial(network, at); err == nil {
			_ = conn.Close()
			return s
		}
		if time.Now().After(deadline) || s.Err() != nil {
			t.Fatal("the no-op server does not listen: ", s.Err())
		}
	}
}

// start runs the process until the test ends, in a control group if there is one. What it writes is read, and dropped.
func (s *server) start(t testing.TB, within *group, path string, args, environ []string) {
	t.Helper()
	var err error
	if within != nil {
		path, args = within.command(t, path, args)
	}
	if s.Process, err = process.Start(process.Config{Path: path, Args: args, Env: environ}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(10 * time.Second) })
}

// clean is the environment without what would change how a server works.
func clean() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "KEYWICKET_") || strings.HasPrefix(entry, "GOGC=") || strings.HasPrefix(entry, "GOMEMLIMIT=") ||
			strings.HasPrefix(entry, "GODEBUG=") || strings.HasPrefix(entry, "GOMAXPROCS=")
	})
}

// cpu is what the threads of the process have used so far. The kernel counts it in nanoseconds; stat would count in ticks of 10 ms.
func (s *server) cpu(t testing.TB) (used time.Duration) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.PID()))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has ended: %v", s.name, errors.Join(err, s.Err()))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended, which those of Go hardly do
		}
		var nanoseconds int64
		if _, err := fmt.Sscan(string(text), &nanoseconds); err != nil {
			t.Fatal(err)
		}
		used += time.Duration(nanoseconds)
	}
	return used
}

// freeAddresses are of ports that are free now. All are held until the last is found, so that they differ.
func freeAddresses(t testing.TB, n int) (free []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		free = append(free, l.Addr().String())
	}
	return free
}

// warm asks for what is in the plan until all answers are as wanted and from memory.
func (w *world) warm(ctx context.Context, t testing.TB, s *server, p plan, want int) {
	t.Helper()
	w.client.learn(t, p)
	if err := w.tryToWarm(ctx, t, s, p, want); err != nil {
		t.Fatal(err)
	}
}

// tryToWarm gives up when asking again brings no more into memory. A busy machine may answer some checks too late.
func (w *world) tryToWarm(ctx context.Context, t testing.TB, s *server, p plan, want int) error {
	t.Helper()
	for most, tries := 0, 0; ; tries++ {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		r := w.client.do(t, command{Run: &load{
			Plan: p.Name, Address: s.address, Callers: 8, Checks: len(p.Asks), Want: want, Details: true,
		}})
		switch {
		case r.Hits == r.Checks && len(r.Wrong) == 0:
			return nil
		case r.Hits > most+len(p.Asks)/100:
			most, tries = r.Hits, 0
		case tries == 5:
			return fmt.Errorf("%d of %d answers are from memory; other answers than %d: %v", r.Hits, r.Checks, want, r.Wrong)
		}
	}
}
