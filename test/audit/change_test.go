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

// edit is an SQL statement that changes one subject, with the table that the statement writes to.
type edit struct {
	table, sql        string
	deletesReferenced bool // the edit deletes a row that other rows refer to
}

// denyingEdits returns the edits after which the subject is denied.
func denyingEdits(s *subject) []edit {
	id, user, grant, app := quote(s.id), quote(s.user), quote(s.grant), quote(s.app)
	userEdits := []edit{
		{table: "members", sql: `UPDATE keywicket.members SET role = 'guest' WHERE user_id = ` + user},
		{table: "members", sql: `DELETE FROM keywicket.members WHERE user_id = ` + user},
		{table: "users", sql: `UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = ` + user},
	}
	token := []edit{
		{table: "tokens", sql: `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = ` + id},
		{table: "tokens", sql: `DELETE FROM keywicket.tokens WHERE id = ` + id, deletesReferenced: true},
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
	changeKind string
	targets    []int
	apply      func(context.Context, *node) error
}

// keepOpen is a statement that keeps a transaction open for longer than the interval between two readings of the log.
const keepOpen = `SELECT pg_sleep(0.4)`

// changeKind is a kind of change, such as SQL or COPY. The field `plan` is a function that returns another function, which makes a
// change of this kind. After this change, the subject is denied if deny is true, and allowed if deny is false. If no change of
// this kind has this effect, plan returns nil.
type changeKind struct {
	name string
	plan func(d *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error
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
			_, _ = c.ExecContext(ctx, "ROLLBACK") // without this, the connection would return to the pool in a failed transaction
		}
		return err
	}
}

// randomEdit returns a random edit after which the subject is denied, or the edit after which the subject is allowed. If
// references is false, the edit does not delete rows that other rows refer to, because the database would not cascade the
// deletion.
func randomEdit(r *rand.Rand, s *subject, deny, references bool) edit {
	if !deny {
		tables := map[credentialKind]string{workspaceToken: "tokens", personalKey: "tokens", session: "revoked_sessions", oauthToken: "oauth_grants"}
		return edit{table: tables[s.kind], sql: s.allowSQL()}
	}
	edits := slices.DeleteFunc(denyingEdits(s), func(e edit) bool { return e.deletesReferenced && !references })
	return edits[r.IntN(len(edits))]
}

var changeKinds = []changeKind{
	{"SQL", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		return transaction(randomEdit(r, s, deny, true).sql)
	}},
	{"open transaction", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		begin := transaction(randomEdit(r, s, deny, true).sql, keepOpen)
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
	{"replica mode", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		return transaction(`SET LOCAL session_replication_role = replica`, randomEdit(r, s, deny, false).sql)
	}},
	{"disabled triggers", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		tables, e := []string{}, randomEdit(r, s, deny, true)
		if tables = append(tables, e.table); !deny {
			tables = []string{"tokens", "members", "users", "revoked_sessions", "oauth_apps", "oauth_grants", "oauth_grant_workspaces",
				"oauth_access_tokens"}
		}
		var statements, enable []string
		for _, table := range tables {
			statements = append(statements, `ALTER TABLE keywicket.`+table+` DISABLE TRIGGER USER`)
			enable = append(enable, `DO $$ DECLARE name text; BEGIN
				FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'keywicket.`+table+`'::regclass AND NOT tgisinternal LOOP
					EXECUTE format('ALTER TABLE keywicket.`+table+` ENABLE ALWAYS TRIGGER %I', name);
				END LOOP; END $$`)
		}
		return transaction(slices.Concat(statements, []string{e.sql}, enable)...)
	}},
	{"MERGE", func(d *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		merge := func(table, column, value, then string) func(context.Context, *node) error {
			return transaction(fmt.Sprintf(`MERGE INTO keywicket.%s t USING (VALUES (%s)) AS v (value) ON t.%s = v.value WHEN MATCHED THEN %s`,
				table, quote(value), column, then))
		}
		const first = 150000 // the first version with MERGE
		switch {
		case !deny || d.version < first:
			return nil
		case s.kind == workspaceToken:
			return merge("tokens", "id", s.id, `UPDATE SET revoked_at = now()`)
		case r.IntN(2) == 0:
			return merge("members", "user_id", s.user, `UPDATE SET role = 'guest'`)
		}
		return merge("members", "user_id", s.user, `DELETE`)
	}},
	{"COPY", func(_ *deployment, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
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
	{"cascade", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		switch {
		case !deny:
			return nil
		case s.kind != workspaceToken && r.IntN(2) == 0:
			return transaction(`DELETE FROM keywicket.users WHERE id = ` + quote(s.user))
		}
		return transaction(`DELETE FROM keywicket.workspaces WHERE id = ` + quote(s.workspace))
	}},
	{"CLI", func(d *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
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
			if out, err := command(ctx, d.binary, append([]string{"--database-url", n.URL("postgres")}, args...)...); err != nil {
				return fmt.Errorf("keywicket %s: %w: %s", args, err, out)
			}
			return nil
		}
	}},
	{"VACUUM FULL", func(_ *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		e := randomEdit(r, s, deny, true)
		return func(ctx context.Context, n *node) error {
			if _, err := n.changes.ExecContext(ctx, `VACUUM FULL keywicket.`+e.table); err != nil {
				return err
			}
			return transaction(e.sql)(ctx, n)
		}
	}},
	{"TRUNCATE", func(_ *deployment, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
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
	{"swapped table", func(_ *deployment, _ *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
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
	{"prepared transaction", func(d *deployment, r *rand.Rand, s *subject, deny bool) func(context.Context, *node) error {
		if !d.preparedTransactions {
			return nil
		}
		e := randomEdit(r, s, deny, true)
		return func(ctx context.Context, n *node) error {
			if err := transaction(e.sql+`; PREPARE TRANSACTION 'audit'; BEGIN`)(ctx, n); err != nil {
				return err
			}
			_, err := n.changes.ExecContext(ctx, `COMMIT PREPARED 'audit'`)
			return err
		}
	}},
	{restore, nil}, // deployment.restore plans this change
}

// restore is the name of the kind of change that has two steps. The first step dumps the rows. After other changes, the second
// step restores the dump.
const restore = "restore"

// copyIn inserts one row into a table with COPY.
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

// makeChanges makes changes until the context ends. It makes one change of each kind, in random order, and then starts again.
func (d *deployment) makeChanges(ctx context.Context, r *rand.Rand) {
	var remaining []changeKind
	for ctx.Err() == nil {
		if len(remaining) == 0 {
			remaining = slices.Clone(d.options.changeKinds)
			r.Shuffle(len(remaining), func(i, j int) { remaining[i], remaining[j] = remaining[j], remaining[i] })
		}
		v := remaining[0]
		remaining = remaining[1:]
		if v.name == restore {
			d.restore(ctx)
			continue
		}
		p, ok := d.planFor(v, r)
		if !ok {
			continue
		}
		d.setFocus(p.targets)
		pause(ctx, d.changeInterval) // meanwhile, clients send checks of the subject, and the sidecars cache the answers
		if ctx.Err() == nil {
			d.perform(ctx, p)
		}
	}
}

// planFor plans a change of the given kind. It selects a subject that this kind can change and that has not changed recently.
func (d *deployment) planFor(v changeKind, r *rand.Rand) (plan, bool) {
	states := d.history.current()
	denied := 0
	for _, s := range states {
		if s != allow {
			denied++
		}
	}
	for range 20 * len(d.subjects) {
		i := r.IntN(len(d.subjects))
		deny := states[i] == allow
		if !d.changedLongAgo(i) || deny && denied > len(states)/3 && r.IntN(4) > 0 {
			continue
		}
		if apply := v.plan(d, r, d.subjects[i], deny); apply != nil {
			return plan{changeKind: v.name, targets: []int{i}, apply: apply}, true
		}
	}
	return plan{}, false
}

// focusTime is how long clients send more checks of a subject after a change of the subject.
const focusTime = 4 * time.Second

func (d *deployment) changedLongAgo(subject int) bool {
	return time.Duration(d.changedAt[subject].Load()) < d.now()-focusTime
}

// setFocus makes clients send more checks of the subjects that will change soon, or that changed a short time ago.
func (d *deployment) setFocus(next []int) {
	focus := slices.Clone(next)
	for i := range d.changedAt {
		if !d.changedLongAgo(i) && !slices.Contains(focus, i) {
			focus = append(focus, i)
		}
	}
	d.focus.Store(&focus)
}

// perform makes a change, reads the resulting rows, and records the subjects whose outcome has changed.
func (d *deployment) perform(ctx context.Context, p plan) {
	d.changing.Lock()
	defer d.changing.Unlock()
	for _, i := range p.targets {
		d.ambiguousUntil[i].Store(int64(never))
	}
	// A change that has begun is completed even after ctx has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	changeCtx, stop := context.WithTimeout(ctx, 6*time.Second)
	sent := d.now()
	err := p.apply(changeCtx, d.cluster.currentPrimary())
	// During a failover, a sidecar that has not reached the new primary cannot know the changes there. So wait until every
	// sidecar has reached the new primary.
	d.failover.RLock()
	answered := d.now()
	d.failover.RUnlock()
	stop()
	lost := err != nil
	if err != nil {
		d.failedChanges[p.changeKind]++
		d.log("%v: %s: %v", answered.Round(time.Millisecond), p.changeKind, err)
		if refused := pq.As(err); refused != nil && !slices.Contains([]string{"57", "08"}, string(refused.Code.Class())) {
			lost = false
		}
		if err := await(ctx, "the database is back", func(ctx context.Context) error { return d.cluster.currentPrimary().terminateChanges(ctx) }); err != nil {
			d.log("%v", err)
		}
	}
	states, err := d.readBack(ctx)
	if err != nil {
		d.log("%v", err)
		return // the outcome of the targets stays unknown, and their ambiguousUntil stays `never`
	}
	if lost {
		answered = d.now()
		for _, i := range p.targets {
			d.history.addChange(i, change{changeKind: p.changeKind, sent: sent, answered: never, after: unknown})
		}
	}
	d.recordChanges(p.changeKind, sent, answered, states, p.targets)
	d.setFocus(nil)
}

// readBack reads the outcome that each subject must get. It retries until the database is reachable.
func (d *deployment) readBack(ctx context.Context) (states []outcome, err error) {
	err = await(ctx, "rows are read back", func(ctx context.Context) error {
		states, err = outcomes(ctx, d.cluster.currentPrimary().operator, d.subjects)
		return err
	})
	return states, err
}

// recordChanges records the subjects whose outcome has changed.
func (d *deployment) recordChanges(changeKind string, sent, answered time.Duration, states []outcome, targets []int) {
	before := d.history.current()
	for i, after := range states {
		if after != before[i] {
			d.history.addChange(i, change{changeKind: changeKind, sent: sent, answered: answered, after: after})
			d.changedAt[i].Store(int64(answered))
		}
		if after != before[i] || slices.Contains(targets, i) {
			d.ambiguousUntil[i].Store(int64(answered + bound))
		}
	}
}

// dump is a copy of the schema in a file.
type dump struct {
	node   *node     // the node that has the file in its folder
	states []outcome // the outcomes of the subjects at the time of the dump
}

const dumpFile = "keywicket.dump"

// restore creates a dump of the current primary. If this dump already exists, restore first changes some subjects from denied
// to allowed, and then restores the dump.
func (d *deployment) restore(ctx context.Context) {
	n := d.cluster.currentPrimary()
	if !n.HasProgram("pg_restore") {
		return
	}
	if d.lastDump.node != n {
		d.changing.Lock()
		defer d.changing.Unlock()
		states := d.history.current()
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := n.RunProgram(limited, "pg_dump", "--format=custom", "--schema=keywicket", "--file="+dumpFile, "--dbname="+n.URL("postgres"))
		if err != nil {
			d.log("dump: %v", err)
			return
		}
		d.lastDump = dump{n, states}
		return
	}
	allowed := plan{changeKind: "SQL"}
	var statements []string
	for i, s := range d.history.current() {
		if s != allow && d.lastDump.states[i] != allow && d.changedLongAgo(i) && len(allowed.targets) < 3 {
			allowed.targets = append(allowed.targets, i)
			statements = append(statements, d.subjects[i].allowSQL())
		}
	}
	if len(statements) > 0 {
		allowed.apply = transaction(statements...)
		d.perform(ctx, allowed)
		pause(ctx, 2*bound)
	}
	p := plan{changeKind: restore}
	for i, s := range d.history.current() {
		if s != d.lastDump.states[i] {
			p.targets = append(p.targets, i)
		}
	}
	p.apply = func(ctx context.Context, n *node) error {
		if n != d.lastDump.node {
			return errors.New("the dump belongs to another server")
		}
		return n.RunProgram(ctx, "pg_restore", "--clean", "--if-exists", "--single-transaction", "--dbname="+n.URL("postgres"), dumpFile)
	}
	if ctx.Err() == nil {
		d.perform(ctx, p)
	}
	d.lastDump = dump{}
}
