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
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
)

const workspaceSlug = "acme"

// The tokens form groups. Each constant is the number of the first token in a group. The last group has as many tokens as a
// benchmark needs. Each of the other groups has some thousands of tokens.
const (
	variedTokens   = 0           // each of these tokens has issues:read and its own set of other scopes
	unscopedTokens = 1_000_000   // these tokens lack issues:read
	unknownTokens  = 2_000_000   // these tokens are not stored
	equalTokens    = 100_000_000 // these tokens all have the same scopes
)

const rotation = 2000 // number of tokens that the checks use in turn

// The scopes in which the tokens differ: the workspace scopes except workspace:admin, and the user scopes. A workspace key can
// contain user scopes, but these scopes give the key no access.
var (
	workspaceScopes = []string{"issues:write", "projects:read", "projects:write", "documents:read", "documents:write", "workspace:read"}
	userScopes      = []string{"user:read", "user:write", "workspaces:list", "workspaces:create", "workspaces:update", "workspaces:delete", "admin"}
)

// scopesOf returns the scopes of a set. The set has a bit for each scope.
func scopesOf(set int) (scopes []string) {
	for i, scope := range slices.Concat(workspaceScopes, userScopes) {
		if set&(1<<i) != 0 {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// sets is the number of different sets of scopes.
var sets = 1 << (len(workspaceScopes) + len(userScopes))

// smallSets returns the n smallest sets.
func smallSets(n int) []int {
	all := numbersBelow(sets)
	slices.SortStableFunc(all, func(a, b int) int { return bits.OnesCount(uint(a)) - bits.OnesCount(uint(b)) }) //nolint:gosec // some bits
	return all[:n]
}

// setup contains what all benchmarks need: a Postgres with tokens, the keywicket binary, the client, and the requests as Envoy
// sends them.
type setup struct {
	server      *postgres.Server
	databaseURL string // URL for the sidecar's role
	db          *sqlx.DB
	binary      string // keywicket
	client      *client
	endpoints   []endpoint        // workspace-level rows of Velocity's table that a token without workspace:admin may use
	needs       [][]string        // the scopes of each endpoint
	templates   []requestTemplate // for each endpoint, the CheckRequest that Envoy sends

	cgroup *groupFactory // control group for new servers; nil: none
}

func newSetup(t testing.TB, binary string) *setup {
	t.Helper()
	w := &setup{binary: binary}
	if w.binary == "" {
		w.binary = build(t)
	}
	var err error
	w.server, err = postgres.Start(t.Context(), postgres.Config{Settings: map[string]string{
		"max_connections":           "200",
		"track_activity_query_size": "16384", // pg_stat_activity must contain the whole look-up query
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.server.Close() })
	w.storeTokens(t, w.server.URL("postgres"))
	files, err := policies.Config{}.Folder()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := table.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tables["velocity"].Routes {
		if r.Public || r.Level == table.LevelUser || slices.Contains(r.Scopes, "workspace:admin") {
			continue
		}
		w.endpoints = append(w.endpoints, endpoint{r.Method, withIDs(r.Path)})
		w.needs = append(w.needs, r.Scopes)
	}
	w.templates = captureChecks(t, w.endpoints, false)
	w.client = startClient(t)
	return w
}

// withIDs replaces each parameter with {id}.
func withIDs(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "{id}"
		}
	}
	return strings.Join(segments, "/")
}

// storeTokens migrates the database and stores the tokens.
func (w *setup) storeTokens(t testing.TB, databaseURL string) {
	t.Helper()
	db, home := openMigrated(t, databaseURL)
	t.Cleanup(func() { _ = db.Close() })
	w.db = db
	var numbers []int64
	var scopes []string
	for set := range sets {
		numbers = append(numbers, int64(variedTokens+set))
		scopes = append(scopes, "{"+strings.Join(append([]string{"issues:read"}, scopesOf(set)...), ",")+"}")
	}
	for _, set := range smallSets(rotation + 1)[1:] {
		numbers = append(numbers, int64(unscopedTokens+set))
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

// openMigrated opens a database, migrates it, and creates a workspace.
func openMigrated(t testing.TB, databaseURL string) (db *sqlx.DB, workspace string) {
	t.Helper()
	db, err := database.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	r, err := registry.Open(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	home, err := r.CreateWorkspace(t.Context(), registry.Workspace{Slug: workspaceSlug, Name: "Acme"})
	if err != nil {
		t.Fatal(err)
	}
	return db, home.ID
}

// withRole returns the URL for the sidecar's role.
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

// server is a process that answers checks, or an Envoy.
type server struct {
	*process.Process
	name       string
	address    string // address for checks
	operations string // address of keywicket's operations listener
}

// keywicket starts a sidecar with the defaults and the settings. The sidecar's log is read and discarded. A warm (cached) token
// stays in the cache for the whole benchmark, so that no measurement includes a look-up.
func (w *setup) keywicket(t testing.TB, settings ...string) *server {
	t.Helper()
	free := freeAddresses(t, 2)
	s := &server{name: "keywicket", address: free[0], operations: free[1]}
	environ := slices.Concat(cleanEnviron(), []string{
		"KEYWICKET_DATABASE_URL=" + w.databaseURL, "KEYWICKET_LISTEN_GRPC=" + s.address, "KEYWICKET_LISTEN_OPERATIONS=" + s.operations,
		"KEYWICKET_LISTEN_LAME_DUCK=0s", "KEYWICKET_CACHE_MAX_AGE=1h",
	}, settings)
	for _, setting := range settings {
		if at, ok := strings.CutPrefix(setting, "KEYWICKET_LISTEN_GRPC="); ok {
			s.address = at
		}
	}
	s.start(t, w.cgroup, w.binary, []string{"serve"}, environ)
	s.await(t, "http://"+s.operations+"/readyz")
	return s
}

// noop starts a server that decides nothing. The file named by `answer` contains the server's answer. If `answer` is empty, the
// server allows every check.
func (w *setup) noop(t testing.TB, address, answer string) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if address == "" {
		address = freeAddresses(t, 1)[0]
	}
	s := &server{name: "no-op", address: address}
	s.start(t, w.cgroup, self, nil, append(cleanEnviron(), noopVariable+"="+address, answerVariable+"="+answer))
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

// start runs the process until the test ends. If cgroup is not nil, the process is in its own control group. The function start
// also reads and discards the output of the process.
func (s *server) start(t testing.TB, cgroup *groupFactory, path string, args, environ []string) {
	t.Helper()
	var err error
	if cgroup != nil {
		path, args = cgroup.command(t, path, args)
	}
	if s.Process, err = process.Start(process.Config{Path: path, Args: args, Env: environ}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(10 * time.Second) })
}

// cleanEnviron returns the environment without variables that affect a server.
func cleanEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "KEYWICKET_") || strings.HasPrefix(entry, "GOGC=") || strings.HasPrefix(entry, "GOMEMLIMIT=") ||
			strings.HasPrefix(entry, "GODEBUG=") || strings.HasPrefix(entry, "GOMAXPROCS=")
	})
}

// cpu returns the CPU time of the process's threads so far. It reads schedstat, which counts nanoseconds. The file stat
// only counts ticks of 10 ms.
func (s *server) cpu(t testing.TB) (used time.Duration) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.PID()))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has exited: %v", s.name, errors.Join(err, s.Err()))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended, which is rare in Go
		}
		var nanoseconds int64
		if _, err := fmt.Sscan(string(text), &nanoseconds); err != nil {
			t.Fatal(err)
		}
		used += time.Duration(nanoseconds)
	}
	return used
}

// freeAddresses returns addresses with free ports. It keeps all ports open until it has found n ports, so that the ports
// differ.
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

// warm runs the plan until all answers have the expected status and come from the cache.
func (w *setup) warm(ctx context.Context, t testing.TB, s *server, p plan, want int) {
	t.Helper()
	w.client.storePlan(t, p)
	if err := w.tryToWarm(ctx, t, s, p, want); err != nil {
		t.Fatal(err)
	}
}

// tryToWarm returns an error if several runs add almost nothing to the cache. One run is not enough, because on a busy
// machine some answers may be too late.
func (w *setup) tryToWarm(ctx context.Context, t testing.TB, s *server, p plan, want int) error {
	t.Helper()
	for mostHits, tries := 0, 0; ; tries++ {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		r := w.client.do(t, command{Run: &load{
			Plan: p.Name, Address: s.address, Callers: 8, Checks: len(p.Entries), Want: want, Details: true,
		}})
		switch {
		case r.Hits == r.Checks && len(r.Wrong) == 0:
			return nil
		case r.Hits > mostHits+len(p.Entries)/100:
			mostHits, tries = r.Hits, 0
		case tries == 5:
			return fmt.Errorf("%d of %d answers come from the cache; answers other than %d: %v", r.Hits, r.Checks, want, r.Wrong)
		}
	}
}
