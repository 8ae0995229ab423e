package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// edit is SQL that changes one subject, with the table that it writes to.
type edit struct {
	table, sql string
	parent     bool // the edit deletes a row that other rows refer to
}

// denials returns the edits after which the subject is denied.
func denials(s *subject) []edit {
	id, user, grant, app := quote(s.id), quote(s.user), quote(s.grant), quote(s.app)
	userEdits := []edit{
		{table: "members", sql: `UPDATE keywicket.members SET role = 'guest' WHERE user_id = ` + user},
		{table: "members", sql: `DELETE FROM keywicket.members WHERE user_id = ` + user},
		{table: "users", sql: `UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = ` + user},
	}
	token := []edit{
		{table: "tokens", sql: `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = ` + id},
		{table: "tokens", sql: `DELETE FROM keywicket.tokens WHERE id = ` + id, parent: true},
	}
	switch s.kind {
	case workspaceToken:
		return token
	case personalKey:
		return append(token, userEdits...)
	case session:
		return append([]edit{
			{table: "revoked_sessions", sql: `INSERT INTO keywicket.revoked_sessions (session_id) VALUES (` + id + `)`},
			{table: "revoked_sessions", sql: `INSERT INTO keywicket.revoked_sessions (user_id) VALUES (` + user + `)`},
		}, userEdits...)
	}
	return append([]edit{
		{table: "oauth_access_tokens", sql: `UPDATE keywicket.oauth_access_tokens SET revoked_at = now() WHERE id = ` + id},
		{table: "oauth_grants", sql: `UPDATE keywicket.oauth_grants SET revoked_at = now() WHERE id = ` + grant},
		{table: "oauth_apps", sql: `UPDATE keywicket.oauth_apps SET revoked_at = now() WHERE id = ` + app},
		{table: "oauth_grant_workspaces", sql: `DELETE FROM keywicket.oauth_grant_workspaces WHERE grant_id = ` + grant},
	}, userEdits...)
}

// plan is a planned change.
type plan struct {
	way     string
	targets []int
	do      func(context.Context, *node) error
}

// keepOpen keeps a transaction open for longer than the interval between two readings of the log.
const keepOpen = `SELECT pg_sleep(0.4)`

// way is a way to change rows. plan returns a function that makes the change after which the subject is denied, or allowed. It
// returns nil if this way has no such change.
type way struct {
	name string
	plan func(w *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error
}

// transaction runs the statements in one transaction.
func transaction(statements ...string) func(context.Context, *node) error {
	text := "BEGIN;\n" + strings.Join(statements, ";\n") + ";\nCOMMIT"
	return func(ctx context.Context, n *node) error {
		c, err := n.changes.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err = c.ExecContext(ctx, text); err != nil {
			_, _ = c.ExecContext(ctx, "ROLLBACK") // otherwise the connection returns to the pool in a failed transaction
		}
		return err
	}
}

// sqlOf returns a random edit that denies the subject, or the edit that allows it. If references is false, it does not delete rows
// that other rows refer to, because the database would not cascade the deletion.
func sqlOf(r *rand.Rand, s *subject, deny, references bool) edit {
	if !deny {
		tables := map[kind]string{workspaceToken: "tokens", personalKey: "tokens", session: "revoked_sessions", oauthToken: "oauth_grants"}
		return edit{table: tables[s.kind], sql: s.allowSQL()}
	}
	edits := slices.DeleteFunc(denials(s), func(e edit) bool { return e.parent && !references })
	return edits[r.IntN(len(edits))]
}

var ways = []way{
	{"SQL", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		return transaction(sqlOf(r, s, deny, true).sql)
	}},
	{"open transaction", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		begin := transaction(sqlOf(r, s, deny, true).sql, keepOpen)
		return func(ctx context.Context, n *node) error {
			// A later transaction commits first, so that a snapshot lists the first transaction as open.
			waitCtx, stopWaiting := context.WithCancel(ctx)
			var later sync.WaitGroup
			later.Go(func() {
				_ = await(waitCtx, "the transaction is open", func(ctx context.Context) error {
					return n.exec(ctx, `DO $$ BEGIN
						PERFORM pg_current_xact_id() FROM pg_stat_activity WHERE query LIKE '%`+keepOpen+`%' AND pid <> pg_backend_pid();
						ASSERT FOUND;
					END $$`)
				})
			})
			err := begin(ctx, n)
			stopWaiting()
			later.Wait()
			return err
		}
	}},
	{"replica mode", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		return transaction(`SET LOCAL session_replication_role = replica`, sqlOf(r, s, deny, false).sql)
	}},
	{"disabled triggers", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		tables, e := []string{}, sqlOf(r, s, deny, true)
		if tables = append(tables, e.table); !deny {
			tables = []string{"tokens", "members", "users", "revoked_sessions", "oauth_apps", "oauth_grants", "oauth_grant_workspaces",
				"oauth_access_tokens"}
		}
		var statements, after []string
		for _, table := range tables {
			statements = append(statements, `ALTER TABLE keywicket.`+table+` DISABLE TRIGGER USER`)
			after = append(after, `DO $$ DECLARE name text; BEGIN
				FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'keywicket.`+table+`'::regclass AND NOT tgisinternal LOOP
					EXECUTE format('ALTER TABLE keywicket.`+table+` ENABLE ALWAYS TRIGGER %I', name);
				END LOOP; END $$`)
		}
		return transaction(slices.Concat(statements, []string{e.sql}, after)...)
	}},
	{"MERGE", func(w *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		merge := func(table, column, value, then string) func(context.Context, *node) error {
			return transaction(fmt.Sprintf(`MERGE INTO keywicket.%s t USING (VALUES (%s)) AS v (value) ON t.%s = v.value WHEN MATCHED THEN %s`,
				table, quote(value), column, then))
		}
		const first = 150000 // the first version with MERGE
		switch {
		case !deny || w.version < first:
			return nil
		case s.kind == workspaceToken:
			return merge("tokens", "id", s.id, `UPDATE SET revoked_at = now()`)
		case r.IntN(2) == 0:
			return merge("members", "user_id", s.user, `UPDATE SET role = 'guest'`)
		}
		return merge("members", "user_id", s.user, `DELETE`)
	}},
	{"COPY", func(_ *world, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		switch {
		case s.kind == session && deny:
			return copyIn("revoked_sessions", []string{"session_id"}, s.id)
		case s.kind == workspaceToken && !deny:
			return func(ctx context.Context, n *node) error {
				// First remove every cause of an earlier denial, such as a deleted workspace. The COPY then inserts the token
				// again.
				err := transaction(
					`INSERT INTO keywicket.workspaces (id, slug, name) VALUES (`+quote(s.workspace)+`, `+quote(s.slug)+`, 'w')
						ON CONFLICT DO NOTHING`,
					`DELETE FROM keywicket.tokens WHERE id = `+quote(s.id))(ctx, n)
				if err != nil {
					return err
				}
				return copyIn("tokens",
					[]string{"id", "api", "kind", "environment", "visible_prefix", "digest", "name", "scopes", "workspace_id"},
					s.id, s.api, s.format, "live", s.prefix, s.digest, "n", "{"+s.scope()+"}", s.workspace)(ctx, n)
			}
		}
		return nil
	}},
	{"cascade", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		switch {
		case !deny:
			return nil
		case s.kind != workspaceToken && r.IntN(2) == 0:
			return transaction(`DELETE FROM keywicket.users WHERE id = ` + quote(s.user))
		}
		return transaction(`DELETE FROM keywicket.workspaces WHERE id = ` + quote(s.workspace))
	}},
	{"CLI", func(w *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		member := []string{"--workspace", s.slug, "--user", s.user}
		remove := append([]string{"member", "remove"}, member...)
		guest := append([]string{"member", "set", "--role", "guest"}, member...)
		var choices [][]string
		switch {
		case !deny:
			return nil
		case s.kind == workspaceToken:
			choices = [][]string{{"token", "revoke", s.id}}
		case s.kind == personalKey:
			choices = [][]string{{"token", "revoke", s.id}, remove, guest}
		case s.kind == session:
			choices = [][]string{{"session", "revoke", s.id}, {"session", "revoke", "--user", s.user}, remove}
		default:
			choices = [][]string{{"grant", "revoke", s.grant}, remove, guest}
		}
		args := choices[r.IntN(len(choices))]
		return func(ctx context.Context, n *node) error {
			if out, err := command(ctx, w.binary, append([]string{"--database-url", n.URL("postgres")}, args...)...); err != nil {
				return fmt.Errorf("keywicket %s: %w: %s", args, err, out)
			}
			return nil
		}
	}},
	{"VACUUM FULL", func(_ *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		e := sqlOf(r, s, deny, true)
		return func(ctx context.Context, n *node) error {
			if _, err := n.changes.ExecContext(ctx, `VACUUM FULL keywicket.`+e.table); err != nil {
				return err
			}
			return transaction(e.sql)(ctx, n)
		}
	}},
	{"TRUNCATE", func(_ *world, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		table, column, value := "members", "user_id", s.user
		switch {
		case !deny && s.kind == session:
			table, column, value = "revoked_sessions", "session_id", s.id
		case !deny:
			return nil
		case s.kind == workspaceToken:
			table, column, value = "tokens", "id", s.id
		}
		// All other rows are inserted again.
		return func(ctx context.Context, n *node) error {
			columns := `*`
			into := `keywicket.` + table
			if table == "revoked_sessions" { // the table generates its identity column
				columns, into = `session_id, user_id, revoked_at`, into+` (session_id, user_id, revoked_at)`
			}
			return transaction(`CREATE TEMPORARY TABLE saved ON COMMIT DROP AS SELECT `+columns+` FROM keywicket.`+table,
				`TRUNCATE keywicket.`+table+` CASCADE`,
				`INSERT INTO `+into+` SELECT `+columns+` FROM saved WHERE `+column+` IS DISTINCT FROM `+quote(value))(ctx, n)
		}
	}},
	{"swapped table", func(_ *world, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		if s.kind != session {
			return nil
		}
		edited := `DELETE FROM keywicket.swap WHERE session_id = ` + quote(s.id) + ` OR user_id = ` + quote(s.user)
		if deny {
			edited = `INSERT INTO keywicket.swap (session_id) VALUES (` + quote(s.id) + `)`
		}
		const columns = `session_id, user_id, revoked_at`
		return transaction(
			`CREATE TABLE keywicket.swap (LIKE keywicket.revoked_sessions INCLUDING ALL)`,
			`INSERT INTO keywicket.swap (`+columns+`) SELECT `+columns+` FROM keywicket.revoked_sessions`,
			edited,
			`CREATE TEMPORARY TABLE told ON COMMIT DROP AS SELECT tgname AS name, pg_get_triggerdef(oid) AS definition
				FROM pg_trigger WHERE tgrelid = 'keywicket.revoked_sessions'::regclass AND NOT tgisinternal`,
			`ALTER TABLE keywicket.revoked_sessions RENAME TO swapped`,
			`ALTER TABLE keywicket.swap RENAME TO revoked_sessions`,
			`GRANT SELECT (`+columns+`) ON keywicket.revoked_sessions TO keywicket_sidecar, keywicket_issuer`,
			`DO $$ DECLARE t record; BEGIN
				FOR t IN SELECT * FROM told LOOP
					EXECUTE t.definition;
					EXECUTE format('ALTER TABLE keywicket.revoked_sessions ENABLE ALWAYS TRIGGER %I', t.name);
				END LOOP; END $$`,
			`DROP TABLE keywicket.swapped`)
	}},
	{"prepared transaction", func(w *world, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		if !w.prepared {
			return nil
		}
		e := sqlOf(r, s, deny, true)
		return func(ctx context.Context, n *node) error {
			if err := transaction(e.sql+`; PREPARE TRANSACTION 'audit'; BEGIN`)(ctx, n); err != nil {
				return err
			}
			_, err := n.changes.ExecContext(ctx, `COMMIT PREPARED 'audit'`)
			return err
		}
	}},
	{restore, nil}, // world.restore plans it
}

// restore is the way with two steps: it dumps the rows, and restores them after other changes.
const restore = "restore"

// copyIn copies one row into a table.
func copyIn(table string, columns []string, values ...any) func(context.Context, *node) error {
	return func(ctx context.Context, n *node) (err error) {
		tx, err := n.changes.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after COMMIT
		statement, err := tx.PrepareContext(ctx, `COPY keywicket.`+table+` (`+strings.Join(columns, ", ")+`) FROM STDIN`)
		if err != nil {
			return err
		}
		for i, v := range values {
			if b, ok := v.([]byte); ok {
				values[i] = `\x` + hex.EncodeToString(b)
			}
		}
		if _, err := statement.ExecContext(ctx, values...); err != nil {
			return err
		}
		if _, err := statement.ExecContext(ctx); err != nil { // the end of the copy
			return err
		}
		if err := statement.Close(); err != nil {
			return err
		}
		return tx.Commit()
	}
}

// command runs a program and returns its output.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = time.Second
	c.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KEYWICKET_") })
	return c.CombinedOutput()
}

// change makes changes until the context ends: each way in turn, in random order.
func (w *world) change(ctx context.Context, r *rand.Rand) {
	var deck []way
	for ctx.Err() == nil {
		if len(deck) == 0 {
			deck = slices.Clone(w.options.ways)
			r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		v := deck[0]
		deck = deck[1:]
		if v.name == restore {
			w.restore(ctx)
			continue
		}
		p, ok := w.planFor(v, r)
		if !ok {
			continue
		}
		w.setFocus(p.targets)
		pause(ctx, w.interval) // meanwhile, readers send checks of the subject, and the sidecars cache it
		if ctx.Err() == nil {
			w.perform(ctx, p)
		}
	}
}

// planFor finds a subject that the way can change and that has not changed for a while.
func (w *world) planFor(v way, r *rand.Rand) (plan, bool) {
	states := w.history.current()
	denied := 0
	for _, s := range states {
		if s != allow {
			denied++
		}
	}
	for range 20 * len(w.subjects) {
		i := r.IntN(len(w.subjects))
		deny := states[i] == allow
		if !w.settled(i) || deny && denied > len(states)/3 && r.IntN(4) > 0 {
			continue
		}
		if do := v.plan(w, r, w.subjects[i], deny); do != nil {
			return plan{way: v.name, targets: []int{i}, do: do}, true
		}
	}
	return plan{}, false
}

// focusTime is how long after a change readers send more checks of its subject.
const focusTime = 4 * time.Second

func (w *world) settled(subject int) bool {
	return time.Duration(w.changedAt[subject].Load()) < w.now()-focusTime
}

// setFocus makes readers send more checks of the subjects that are about to change, or that changed a short time ago.
func (w *world) setFocus(next []int) {
	focus := slices.Clone(next)
	for i := range w.changedAt {
		if !w.settled(i) && !slices.Contains(focus, i) {
			focus = append(focus, i)
		}
	}
	w.focus.Store(&focus)
}

// perform makes a change, reads the resulting rows, and records the subjects whose outcome has changed.
func (w *world) perform(ctx context.Context, p plan) {
	w.changing.Lock()
	defer w.changing.Unlock()
	for _, i := range p.targets {
		w.ambiguousUntil[i].Store(int64(never))
	}
	// A change that has begun is completed even after ctx has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	changeCtx, stop := context.WithTimeout(ctx, 6*time.Second)
	sent := w.now()
	err := p.do(changeCtx, w.cluster.currentPrimary())
	// During a failover, sidecars that have not reached the new primary cannot know its changes.
	w.moving.RLock()
	answered := w.now()
	w.moving.RUnlock()
	stop()
	lost := err != nil
	if err != nil {
		w.failed[p.way]++
		w.log("%v: %s: %v", answered.Round(time.Millisecond), p.way, err)
		if refused := pq.As(err); refused != nil && !slices.Contains([]string{"57", "08"}, string(refused.Code.Class())) {
			lost = false
		}
		if err := await(ctx, "the database is back", func(ctx context.Context) error { return w.cluster.currentPrimary().terminateChanges(ctx) }); err != nil {
			w.log("%v", err)
		}
	}
	states, err := w.readBack(ctx)
	if err != nil {
		w.log("%v", err)
		return // the targets' outcome stays unknown, and their ambiguousUntil stays never
	}
	if lost {
		answered = w.now()
		for _, i := range p.targets {
			w.history.addChange(i, change{way: p.way, sent: sent, answered: never, after: unknown})
		}
	}
	w.recordChanges(p.way, sent, answered, states, p.targets)
	w.setFocus(nil)
}

// readBack reads the outcome that each subject must get. It retries until the database is reachable.
func (w *world) readBack(ctx context.Context) (states []outcome, err error) {
	err = await(ctx, "rows are read back", func(ctx context.Context) error {
		states, err = outcomes(ctx, w.cluster.currentPrimary().operator, w.subjects)
		return err
	})
	return states, err
}

// recordChanges records the subjects whose outcome has changed.
func (w *world) recordChanges(way string, sent, answered time.Duration, states []outcome, targets []int) {
	before := w.history.current()
	for i, after := range states {
		if after != before[i] {
			w.history.addChange(i, change{way: way, sent: sent, answered: answered, after: after})
			w.changedAt[i].Store(int64(answered))
		}
		if after != before[i] || slices.Contains(targets, i) {
			w.ambiguousUntil[i].Store(int64(answered + bound))
		}
	}
}

// dump is a copy of the schema in a file.
type dump struct {
	node   *node // the node that has the file in its folder
	states []outcome
}

const dumpFile = "keywicket.dump"

// restore creates a dump. If a dump already exists, restore first allows some subjects that were denied in the dump, and then
// restores the dump.
func (w *world) restore(ctx context.Context) {
	n := w.cluster.currentPrimary()
	if !n.Has("pg_restore") {
		return
	}
	if w.dumped.node != n {
		w.changing.Lock()
		defer w.changing.Unlock()
		states := w.history.current()
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := n.Program(limited, "pg_dump", "--format=custom", "--schema=keywicket", "--file="+dumpFile, "--dbname="+n.URL("postgres"))
		if err != nil {
			w.log("dump: %v", err)
			return
		}
		w.dumped = dump{n, states}
		return
	}
	allowed := plan{way: "SQL"}
	var statements []string
	for i, s := range w.history.current() {
		if s != allow && w.dumped.states[i] != allow && w.settled(i) && len(allowed.targets) < 3 {
			allowed.targets = append(allowed.targets, i)
			statements = append(statements, w.subjects[i].allowSQL())
		}
	}
	if len(statements) > 0 {
		allowed.do = transaction(statements...)
		w.perform(ctx, allowed)
		pause(ctx, 2*bound)
	}
	p := plan{way: restore}
	for i, s := range w.history.current() {
		if s != w.dumped.states[i] {
			p.targets = append(p.targets, i)
		}
	}
	p.do = func(ctx context.Context, n *node) error {
		if n != w.dumped.node {
			return errors.New("the dump belongs to another server")
		}
		return n.Program(ctx, "pg_restore", "--clean", "--if-exists", "--single-transaction", "--dbname="+n.URL("postgres"), dumpFile)
	}
	if ctx.Err() == nil {
		w.perform(ctx, p)
	}
	w.dumped = dump{}
}
