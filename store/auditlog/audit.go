package auditlog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Entry is a row of the audit log: a change of one object, or of all tokens of an import. It contains no credential, and no digest
// of one.
type Entry struct {
	ID int64     `db:"id" json:"id"`
	At time.Time `db:"at" json:"at"` // the time of the change, not of the commit
	// Login is the login that Postgres authenticated.
	Login string `db:"login" json:"login"`
	// The actor is the person or program that caused the change, according to the login's program. It is nil if the program named
	// nobody.
	ActorKind *string `db:"actor_kind" json:"actor_kind"`
	ActorID   *string `db:"actor_id" json:"actor_id"`
	// Action is one of create, change, revoke, restore, rotate, delete, import, truncate and expire.
	Action string `db:"action" json:"action"`
	// ObjectKind is one of token, workspace, user, member, session, app, grant, grant_workspace and audit_log.
	ObjectKind  string  `db:"object_kind" json:"object_kind"`
	ObjectID    *string `db:"object_id" json:"object_id"` // nil if the entry is about several objects
	ObjectName  *string `db:"object_name" json:"object_name"`
	API         *string `db:"api" json:"api"`
	WorkspaceID *string `db:"workspace_id" json:"workspace_id"` // the workspace and the user to which the object belongs
	UserID      *string `db:"user_id" json:"user_id"`
	Objects     int64   `db:"objects" json:"objects"` // the number of changed objects; 0 if unknown
	// Before is a deleted object, or the values that a change replaced. After is a new object, or the values that a change wrote.
	Before *json.RawMessage `db:"before" json:"before"`
	After  *json.RawMessage `db:"after" json:"after"`
	// Source is the address of the actor's client, and RequestID the id of the actor's request.
	Source    *string `db:"source" json:"source"`
	RequestID *string `db:"request_id" json:"request_id"`
}

// Filter selects entries. Empty fields select all entries.
type Filter struct {
	Workspace string // id or slug; the id also if the workspace no longer exists
	User      string // id or email; the id also if the user no longer exists
	Object    string // the object's id
	Actor     string // the id of an actor, or a login
	ActorID   string // the id of an actor
	Action    string
	// ObjectKind is a kind of objects, such as token.
	ObjectKind string
	// API selects the entries about objects of the API, and about objects that belong to no API.
	API string
	// Account is the id of a user. It selects the entries about the user, about what belongs to the user, and about the apps that the
	// user registered.
	Account string
	// Since and Until are the times of the first entry and after the last entry.
	Since, Until *time.Time
	// OldestFirst gives the order of the entries. The default is: newest first.
	OldestFirst bool
	After       int64 // the id of the last entry of the previous page
	Limit       int   // the maximum number of entries; 0: no limit
}

// Entries reads entries one by one, so they need not fit in memory. An error is the last value.
func Entries(ctx context.Context, r *registry.Registry, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		query, args, err := f.query(ctx, r, columns, 0)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		if err := read(ctx, r, query, args, yield); err != nil {
			yield(Entry{}, fmt.Errorf("read the audit log: %w", err))
		}
	}
}

func read(ctx context.Context, r *registry.Registry, query string, args []any, yield func(Entry, error) bool) error {
	tx, err := r.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	rows, err := tx.QueryxContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e Entry
		if err := rows.StructScan(&e); err != nil {
			return err
		}
		if !yield(e, nil) {
			return nil
		}
	}
	return rows.Err()
}

// maxRead is the number of entries that a page reads at most. Without it, a filter that selects few entries could make Postgres read all
// entries of a workspace.
const maxRead = 5000

// Page returns the next entries of an owner, newest first, and the value of Filter.After for the next page; 0 on the last page.
// Filter.Limit is required, and either Workspace, User or Account. A page can have fewer entries than the limit, or none, and still have a
// next page: a query reads at most some thousand entries to find the selected ones.
func Page(ctx context.Context, r *registry.Registry, f Filter) ([]Entry, int64, error) {
	limit := f.Limit
	f.OldestFirst, f.Limit = false, limit+1 // one more entry shows whether there is a next page
	query, args, err := f.query(ctx, r, columns, maxRead)
	if err != nil {
		return nil, 0, err
	}
	page := []Entry{}
	err = read(ctx, r, query, args, func(e Entry, err error) bool {
		page = append(page, e)
		return err == nil
	})
	if err == nil && len(page) > limit {
		page = page[:limit]
		return page, page[limit-1].ID, nil
	}
	var last int64
	if err == nil {
		last, err = f.lastRead(ctx, r)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the audit log: %w", err)
	}
	return page, last, nil
}

// lastRead returns the id of the last entry that the query of a page reads, or 0 if the query reads fewer than maxRead entries.
func (f Filter) lastRead(ctx context.Context, r *registry.Registry) (id int64, err error) {
	all := Filter{Workspace: f.Workspace, User: f.User, Account: f.Account, After: f.After, Limit: 1}
	query, args, err := all.query(ctx, r, "id", maxRead)
	if err != nil {
		return 0, err
	}
	tx, err := r.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	err = tx.GetContext(ctx, &id, fmt.Sprintf("%s OFFSET %d", query, maxRead-1), args...)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id, err
}

const columns = `id, at, login, actor_kind, actor_id, action, object_kind, object_id, object_name, api, workspace_id, user_id, objects, before, after, source, request_id`

// query returns the filter's query of the columns, and its arguments. If read is not 0, the query reads at most this number of entries
// of the owner.
func (f Filter) query(ctx context.Context, r *registry.Registry, columns string, read int) (string, []any, error) {
	var owner, conditions []string
	var args []any
	to := func(list *[]string, condition string, value any) {
		args = append(args, value)
		*list = append(*list, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(args))))
	}
	where := func(condition string, value any) { to(&conditions, condition, value) }
	if f.Workspace != "" {
		id, err := workspaceID(ctx, r, f.Workspace)
		if err != nil {
			return "", nil, err
		}
		to(&owner, "workspace_id = ?", id)
	}
	if f.User != "" {
		id, err := userID(ctx, r, f.User)
		if err != nil {
			return "", nil, err
		}
		to(&owner, "user_id = ?", id)
	}
	if f.Object != "" {
		where("object_id = ?", f.Object)
	}
	if f.Actor != "" {
		where("(actor_id = ? OR login = ?)", f.Actor)
	}
	if f.ActorID != "" {
		where("actor_id = ?", f.ActorID)
	}
	if f.Action != "" {
		where("action = ?", f.Action)
	}
	if f.ObjectKind != "" {
		where("object_kind = ?", f.ObjectKind)
	}
	if f.API != "" {
		where("(api IS NULL OR api = ?)", f.API)
	}
	if f.Since != nil {
		where("at >= ?", *f.Since)
	}
	if f.Until != nil {
		where("at < ?", *f.Until)
	}
	after, order := "id < ?", " ORDER BY id DESC"
	if f.OldestFirst {
		after, order = "id > ?", " ORDER BY id"
	}
	if f.After != 0 {
		to(&owner, after, f.After)
	}
	from := [][]string{owner}
	if f.Account != "" { // each part has an index
		var mine, apps []string
		to(&mine, `user_id = ?`, f.Account)
		to(&apps, `user_id IS DISTINCT FROM ? AND object_kind = 'app' AND object_id = ANY (ARRAY(SELECT id FROM keywicket.oauth_apps WHERE owner_id = ?))`, f.Account)
		from = [][]string{append(mine, owner...), append(apps, owner...)}
	}
	bound := ""
	if read > 0 {
		bound = order + fmt.Sprintf(" LIMIT %d", read)
	}
	parts := make([]string, len(from))
	for i, conditions := range from {
		parts[i] = `(` + selection(columns, `keywicket.audit_log`, conditions) + bound + `)`
	}
	source := parts[0]
	if len(parts) > 1 {
		source = `(` + strings.Join(parts, ` UNION ALL `) + bound + `)`
	}
	query := selection(columns, source+` AS entry`, conditions) + order
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return query, args, nil
}

func selection(columns, from string, conditions []string) string {
	query := `SELECT ` + columns + ` FROM ` + from
	if len(conditions) > 0 {
		query += ` WHERE ` + strings.Join(conditions, ` AND `)
	}
	return query
}

// workspaceID returns the id of a workspace. A workspace that no longer exists is found only by its id.
func workspaceID(ctx context.Context, r *registry.Registry, ref string) (string, error) {
	w, err := r.Workspace(ctx, ref)
	if errors.Is(err, database.ErrNotFound) && authz.ValidWorkspaceID(ref) {
		return ref, nil
	}
	return w.ID, err
}

// userID returns the id of a user. A user who no longer exists is found only by their id.
func userID(ctx context.Context, r *registry.Registry, ref string) (string, error) {
	u, err := r.User(ctx, ref)
	if errors.Is(err, database.ErrNotFound) && !strings.Contains(ref, "@") {
		return ref, nil
	}
	return u.ID, err
}

// Expire deletes the entries that are older than the duration, which must be at least a day. It returns their number. The audit
// log gets an entry about the deletion.
func Expire(ctx context.Context, r *registry.Registry, olderThan time.Duration) (int64, error) {
	if olderThan < 24*time.Hour {
		return 0, database.NewRefusal(database.ErrInvalid, "the audit log keeps its entries for at least one day: give a longer time")
	}
	tx, err := r.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("expire the audit log: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // Rollback has no effect after a commit
	var expired int64
	err = tx.GetContext(ctx, &expired, `SELECT keywicket.expire_audit_log($1 * interval '1 second')`, olderThan.Seconds())
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return 0, fmt.Errorf("expire the audit log: %w", database.NeedsRole("keywicket_retention", err))
	}
	return expired, nil
}
