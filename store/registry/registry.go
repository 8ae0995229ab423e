package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/attributes"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/sidecars"
)

// Workspace is a tenant of the product.
type Workspace struct {
	ID        string    `db:"id" json:"id"` // 24 lower-case hex digits
	Slug      string    `db:"slug" json:"slug"`
	Name      string    `db:"name" json:"name"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
	// Attributes are data that policies can read.
	Attributes authz.Attributes `db:"attributes" json:"attributes"`
	// LeaverRule is what happens to the workspace's tokens whose creator leaves the workspace.
	LeaverRule LeaverRule `db:"leaver_rule" json:"leaver_rule"`
}

// workspaceColumns are the columns of a [Workspace].
const workspaceColumns = `id, slug, name, created_at, attributes, leaver_rule`

// User is a person. The id is the same as in the product's identity provider.
type User struct {
	ID          string     `db:"id" json:"id"`
	Email       string     `db:"email" json:"email"`
	CreatedAt   time.Time  `db:"created_at" json:"created_at"`
	BannedUntil *time.Time `db:"banned_until" json:"banned_until"` // nil if the user was never banned
	MFAEnrolled bool       `db:"mfa_enrolled" json:"mfa_enrolled"` // the user has a second factor
	// Attributes are data that policies can read.
	Attributes authz.Attributes `db:"attributes" json:"attributes"`
}

// userColumns are the columns of a [User]. If banned_until is outside the range of Go or JSON, the query returns the nearest time
// in this range.
const userColumns = `id, email, created_at, mfa_enrolled, attributes,
	CASE WHEN banned_until IS NOT NULL THEN GREATEST(LEAST(banned_until, '9999-12-31Z'), '1970-01-01Z') END AS banned_until`

// Banned reports whether the user is banned at a time.
func (u User) Banned(at time.Time) bool { return u.BannedUntil != nil && u.BannedUntil.After(at) }

// Member is a user's role in a workspace.
type Member struct {
	WorkspaceID   string `db:"workspace_id" json:"workspace_id"`
	WorkspaceSlug string `db:"workspace_slug" json:"workspace_slug"`
	UserID        string `db:"user_id" json:"user_id"`
	Email         string `db:"email" json:"email"`
	Role          string `db:"role" json:"role"`
}

// Registry creates, lists, changes and revokes workspaces, users, members, tokens, apps and grants, and waits for sidecars. A
// Registry is safe for concurrent use. Methods accept a workspace's id or slug, and a user's id or email. If the text is the id
// of one object and the slug or email of another, the id takes precedence.
type Registry struct {
	sidecars.List
	db   queryer
	pool *sqlx.DB
}

// queryer runs queries: a pool of connections, or a transaction.
type queryer interface {
	GetContext(ctx context.Context, dest any, query string, args ...any) error
	SelectContext(ctx context.Context, dest any, query string, args ...any) error
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// New returns a registry that uses the pool. It does not connect.
func New(db *sqlx.DB) *Registry { return &Registry{List: sidecars.New(db), db: db, pool: db} }

// Open connects to the database. It fails with [database.ErrUnreachable] if the database cannot be reached, and with
// [database.ErrNotMigrated] if the schema is missing or too old. A newer schema is not an error, because each migration is
// compatible with the previous version of keywicket.
func Open(ctx context.Context, databaseURL string) (*Registry, error) {
	db, err := database.Open(databaseURL)
	if err != nil {
		return nil, err
	}
	r := New(db)
	if err := r.check(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return r, nil
}

func (r *Registry) check(ctx context.Context) error {
	const limit = 5 * time.Second // also if the database does not react to a cancel request
	err := database.DoWithTimeout(ctx, limit, func(ctx context.Context) error {
		// Run a query instead of Ping, because Ping would not return the cause of a failure.
		_, err := r.db.ExecContext(ctx, `SELECT 1`)
		return err
	})
	if err != nil {
		return database.RefuseBecause(database.ErrUnreachable, "cannot reach the database", err)
	}
	status, err := schema.Status(ctx, r.pool)
	if err != nil {
		return err
	}
	pending := 0
	for _, m := range status {
		if m.AppliedAt == nil {
			pending++
		}
	}
	switch pending {
	case 0:
		return nil
	case len(status):
		return database.NewRefusal(database.ErrNotMigrated, "the schema keywicket does not exist in the database: run `keywicket migrate up`")
	default:
		return database.NewRefusal(database.ErrNotMigrated, "the database's schema lacks migrations (%d): run `keywicket migrate up`", pending)
	}
}

// Close closes the connections.
func (r *Registry) Close() error { return r.pool.Close() }

// Begin starts a transaction in the registry's database.
func (r *Registry) Begin(ctx context.Context) (*sqlx.Tx, error) { return r.pool.BeginTxx(ctx, nil) }

// Acting runs the function in a transaction. The registry that the function gets makes its changes in this transaction, on behalf
// of the actor. The function may make more changes in the transaction. If the function returns an error, nothing changes.
func (r *Registry) Acting(ctx context.Context, a database.Actor, f func(*Registry, *sqlx.Tx) error) error {
	return database.ReadCommitted(ctx, r.pool, func(tx *sqlx.Tx) error {
		if err := database.ActAs(ctx, tx, a); err != nil {
			return err
		}
		return f(&Registry{List: r.List, db: tx, pool: r.pool}, tx)
	})
}

// CreateWorkspace creates a workspace. If the id is empty, CreateWorkspace generates an id.
func (r *Registry) CreateWorkspace(ctx context.Context, w Workspace) (Workspace, error) {
	if w.ID == "" {
		w.ID = newWorkspaceID()
	}
	// The database's constraints also check these values. Check them here first, because Postgres logs a row that violates a
	// constraint, and the row may contain a key by mistake.
	switch {
	case !authz.ValidWorkspaceID(w.ID):
		return Workspace{}, database.NewRefusal(database.ErrInvalid, "the workspace id %q is not 24 lower-case hex digits", w.ID)
	case !authz.ValidSlug(w.Slug):
		return Workspace{}, database.NewRefusal(database.ErrInvalid,
			"the slug %q is not valid: write 1 to 63 characters of a-z, 0-9 and -, starting with a letter or digit", w.Slug)
	}
	attributesText, err := attributes.JSON(w.Attributes)
	if err != nil {
		return Workspace{}, err
	}
	var created Workspace
	err = r.db.GetContext(ctx, &created, `
		INSERT INTO keywicket.workspaces (id, slug, name, attributes) VALUES ($1, $2, $3, $4)
		RETURNING `+workspaceColumns, w.ID, w.Slug, w.Name, attributesText)
	if err != nil {
		return Workspace{}, database.ConstraintError(err, "create the workspace", map[string]error{
			"workspaces_pkey":     database.NewRefusal(database.ErrExists, "the workspace id %q is taken", w.ID),
			"workspaces_slug_key": database.NewRefusal(database.ErrExists, "the slug %q is taken", w.Slug),
			"workspaces_name_form": database.NewRefusal(database.ErrInvalid,
				"the workspace's name %q is empty or has control characters", w.Name),
			"workspaces_attributes_form": attributes.ErrRefused,
		})
	}
	return created, database.ConfirmRow(created.ID == w.ID && created.Slug == w.Slug && created.Name == w.Name, "create the workspace")
}

// newWorkspaceID returns an id in the form of an ObjectId. The id starts with the present time, so that new rows are added at the
// end of the index.
func newWorkspaceID() string {
	var id [12]byte
	binary.BigEndian.PutUint32(id[:4], uint32(time.Now().Unix())) //nolint:gosec // wraps in 2106, as ObjectIds do
	_, _ = rand.Read(id[4:])                                      // Read never returns an error (see its documentation in crypto/rand)
	return hex.EncodeToString(id[:])
}

// Workspaces lists all workspaces, sorted by slug.
func (r *Registry) Workspaces(ctx context.Context) ([]Workspace, error) {
	list := []Workspace{}
	err := r.db.SelectContext(ctx, &list, `SELECT `+workspaceColumns+` FROM keywicket.workspaces ORDER BY slug`)
	if err != nil {
		return nil, fmt.Errorf("list the workspaces: %w", err)
	}
	return list, nil
}

// Workspace returns a workspace by id or slug. The error is [database.ErrNotFound] if the workspace does not exist.
func (r *Registry) Workspace(ctx context.Context, ref string) (Workspace, error) {
	var w Workspace
	err := r.db.GetContext(ctx, &w, `
		SELECT `+workspaceColumns+` FROM keywicket.workspaces WHERE id = $1 OR slug = $1
		ORDER BY id <> $1 LIMIT 1`, ref)
	if errors.Is(err, sql.ErrNoRows) {
		return Workspace{}, database.NewRefusal(database.ErrNotFound, "no workspace %q: %s", ref, r.choices(ctx, "workspace",
			`SELECT slug FROM keywicket.workspaces ORDER BY slug LIMIT 11`))
	}
	if err != nil {
		return Workspace{}, fmt.Errorf("find the workspace %q: %w", ref, err)
	}
	return w, database.ConfirmRow(w.ID == ref || w.Slug == ref, "find the workspace")
}

// SetWorkspaceAttributes replaces all attributes of a workspace.
func (r *Registry) SetWorkspaceAttributes(ctx context.Context, ref string, a authz.Attributes) (Workspace, error) {
	w, err := r.Workspace(ctx, ref)
	if err != nil {
		return Workspace{}, err
	}
	if err := r.setAttributes(ctx, "workspaces", w.ID, a); err != nil {
		return Workspace{}, err
	}
	return r.Workspace(ctx, w.ID)
}

// choices returns a text with up to ten existing names. The query returns up to eleven names, so that choices detects whether
// there are more than ten.
func (r *Registry) choices(ctx context.Context, noun, query string) string {
	var names []string
	if err := r.db.SelectContext(ctx, &names, query); err != nil || len(names) == 0 {
		return "none exists: run `keywicket " + noun + " create`"
	}
	if len(names) > 10 {
		names = append(names[:10], "…")
	}
	return "the existing " + noun + "s are " + strings.Join(names, ", ") + "; keywicket " + noun + " create creates another one"
}

// CreateUser creates a user. If the id is empty, CreateUser generates a random UUID.
func (r *Registry) CreateUser(ctx context.Context, u User) (User, error) {
	errInvalidEmail := database.NewRefusal(database.ErrInvalid, "the email %q is not a valid address", u.Email)
	const maxEmail = 254                                            // RFC 5321; Postgres cannot index a much longer text
	if len(u.Email) > maxEmail || !strings.Contains(u.Email, "@") { // check the email here for the same reason as in CreateWorkspace
		return User{}, errInvalidEmail
	}
	attributesText, err := attributes.JSON(u.Attributes)
	if err != nil {
		return User{}, err
	}
	var created User
	err = r.db.GetContext(ctx, &created, `
		INSERT INTO keywicket.users (id, email, attributes) VALUES (COALESCE(NULLIF($1, ''), gen_random_uuid()::text), $2, $3)
		RETURNING `+userColumns, u.ID, u.Email, attributesText)
	if err != nil {
		return User{}, database.ConstraintError(err, "create the user", map[string]error{
			"users_pkey":      database.NewRefusal(database.ErrExists, "the user id %q is taken", u.ID),
			"users_email_key": database.NewRefusal(database.ErrExists, "the email %q is taken", u.Email),
			"users_id_form": database.NewRefusal(database.ErrInvalid,
				"the user id %q is longer than 255 characters, or has control characters, or starts or ends with a space", u.ID),
			"users_email_form":      errInvalidEmail,
			"users_attributes_form": attributes.ErrRefused,
		})
	}
	return created, database.ConfirmRow((u.ID == "" || created.ID == u.ID) && created.Email == u.Email, "create the user")
}

// Users lists all users, sorted by email.
func (r *Registry) Users(ctx context.Context) ([]User, error) {
	list := []User{}
	err := r.db.SelectContext(ctx, &list, `SELECT `+userColumns+` FROM keywicket.users ORDER BY lower(email)`)
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	return list, nil
}

// User returns a user by id or email. Upper and lower case do not matter in emails. The error is [database.ErrNotFound] if the
// user does not exist.
func (r *Registry) User(ctx context.Context, ref string) (User, error) {
	var u User
	err := r.db.GetContext(ctx, &u, `
		SELECT `+userColumns+` FROM keywicket.users WHERE id = $1 OR lower(email) = lower($1)
		ORDER BY id <> $1 LIMIT 1`, ref)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, database.NewRefusal(database.ErrNotFound, "no user %q: %s", ref, r.choices(ctx, "user",
			`SELECT email FROM keywicket.users ORDER BY lower(email) LIMIT 11`))
	}
	if err != nil {
		return User{}, fmt.Errorf("find the user %q: %w", ref, err)
	}
	return u, database.ConfirmRow(u.ID == ref || strings.EqualFold(u.Email, ref) || !isASCII(u.Email+ref), "find the user") // for non-ASCII characters, the result of SQL's lower() depends on the locale
}

// SetUserAttributes replaces all attributes of a user.
func (r *Registry) SetUserAttributes(ctx context.Context, ref string, a authz.Attributes) (User, error) {
	u, err := r.User(ctx, ref)
	if err != nil {
		return User{}, err
	}
	if err := r.setAttributes(ctx, "users", u.ID, a); err != nil {
		return User{}, err
	}
	return r.User(ctx, u.ID)
}

// Lookup answers a look-up as a sidecar does, but finds the token by its id instead of the look-up's digest.
func (r *Registry) Lookup(ctx context.Context, id string, l authz.Lookup) (authz.LookupResult, error) {
	table := "tokens"
	if l.Kind == authz.KindOAuthToken {
		table = "oauth_access_tokens"
	}
	var digest []byte
	err := r.db.GetContext(ctx, &digest, `SELECT digest FROM keywicket.`+table+` WHERE id = $1`, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return authz.LookupResult{}, fmt.Errorf("find the token: %w", err)
	}
	copy(l.Digest[:], digest)
	return r.LookupDigest(ctx, l)
}

// LookupDigest answers the look-up of a key or an access token as a sidecar does.
func (r *Registry) LookupDigest(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	query := lookup.TokenQuery
	if l.Kind == authz.KindOAuthToken {
		query = lookup.OAuthQuery
	}
	return lookup.Once(ctx, r.pool, query, l)
}

// LookupSession answers a look-up of a session as a sidecar does.
func (r *Registry) LookupSession(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	return lookup.Once(ctx, r.pool, lookup.SessionQuery, l)
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII })
}
