package tokenimport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/attributes"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Import describes tokens of one kind that a product issued before it used keywicket.
type Import struct {
	// Format is one of the API's credential formats.
	Format authz.CredentialFormat
	API    string
	// Lines yields the lines of the input one by one, so the whole input is never in memory. If Lines yields an error, the
	// import ends with this error and stores nothing.
	Lines iter.Seq2[Line, error]
}

// Line is one token. Messages about a bad line never quote the line, because any column may contain a key by mistake.
type Line struct {
	// Number is the line's number in the input. The first line has the number 1.
	Number int
	// Problem is the reason why the line could not be read. If Problem is set, the other fields are ignored.
	Problem string

	// Key is the token. If the product has stored only digests, Key is empty. In this case, Digest is the token's SHA-256, and
	// Prefix is the token's visible part.
	Key    authz.Secret
	Digest *authz.Digest
	Prefix string

	Name string
	// Scopes have the same spelling as in the API's catalogue of scopes. This package does not know the catalogue.
	Scopes []string
	// The owner is either a Workspace (id or slug) or a User (id or email). Format.Kind decides which of the two fields is set,
	// and the other field is empty.
	Workspace, User string
	// If CreatedAt is nil, the token gets the time of the import. Neither CreatedAt nor RevokedAt may be later than the time of
	// the database's clock.
	CreatedAt, RevokedAt *time.Time
	// ExpiresAt may be in the past. A request with such a token is denied as expired, not as unknown.
	ExpiresAt *time.Time
	// Attributes can be read by policies.
	Attributes authz.Attributes
}

// BadLine is a line that cannot be imported, with the reason.
type BadLine struct {
	Number int
	Reason string
}

// Error is the error of an import that stored nothing because some lines are bad. It wraps [database.ErrInvalid].
type Error struct {
	Lines []BadLine // the first 20 bad lines
	Bad   int       // number of bad lines in all
}

// maxBadLines is the maximum number of bad lines in an Error. Further bad lines most likely contain the same mistake.
const maxBadLines = 20

func (e *Error) Error() string {
	if e.Bad == 1 {
		return "one line is bad; nothing is imported"
	}
	return fmt.Sprintf("%d lines are bad; nothing is imported", e.Bad)
}

func (e *Error) Unwrap() error { return database.ErrInvalid }

// add increases the number of bad lines by the parameter `count`. It also stores the given lines in order, up to maxBadLines.
func (e *Error) add(count int, lines ...BadLine) {
	e.Bad += count
	e.Lines = append(e.Lines, lines...)
	slices.SortStableFunc(e.Lines, func(a, b BadLine) int { return cmp.Compare(a.Number, b.Number) })
	e.Lines = e.Lines[:min(len(e.Lines), maxBadLines)]
}

// Run imports either all lines or none, and returns the number of imported lines. If some lines are bad, the error is an
// [Error]. The tokens are valid when Run returns. Run has only one line in memory at a time. It keeps the other lines in a
// temporary table, so the login must be allowed to create temporary tables. During an import, checks continue, and other tokens
// can be created and revoked.
func Run(ctx context.Context, r *registry.Registry, im Import) (int, error) {
	format, err := im.Format.Complete()
	if err != nil {
		return 0, database.NewRefusal(database.ErrInvalid, "the credential format's %v", err)
	}
	im.Format = format
	tx, err := r.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("import the tokens: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // Rollback has no effect after a commit
	n, err := im.run(ctx, tx)
	if err == nil {
		err = tx.Commit()
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // return the context's error, not the error that Postgres sends for a cancelled query
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return 0, err
	}
	if err != nil {
		return 0, database.ConstraintError(err, "import the tokens", map[string]error{
			"tokens_api_form": database.NewRefusal(database.ErrInvalid, "the API's name %q is invalid: use only letters, digits, _ and -", im.API),
		})
	}
	return n, nil
}

func (im Import) run(ctx context.Context, tx *sqlx.Tx) (int, error) {
	_, err := tx.ExecContext(ctx, `
		CREATE TEMPORARY TABLE import_lines (
			line           bigint  NOT NULL,
			digest         bytea   NOT NULL,
			visible_prefix text    NOT NULL,
			name           text    NOT NULL,
			scopes         text[]  NOT NULL,
			owner          text    NOT NULL,
			created_at     timestamptz,
			expires_at     timestamptz,
			revoked_at     timestamptz,
			attributes     jsonb   NOT NULL
		) ON COMMIT DROP`)
	if err != nil {
		return 0, err
	}
	bad := new(Error)
	staged, err := im.stage(ctx, tx, bad)
	if err != nil {
		return 0, err
	}
	if err := im.check(ctx, tx, bad); err != nil {
		return 0, err
	}
	if bad.Bad > 0 {
		return 0, bad
	}
	imported, err := im.insert(ctx, tx)
	if err == nil && imported != staged {
		return 0, database.NewRefusal(database.ErrExists, "nothing is imported, because another program created one of the tokens during the import: "+
			"run the import again; its error will name the line of this token")
	}
	return imported, err
}

// stage copies the valid lines to the temporary table, and returns the number of these lines. It adds each invalid line to the
// parameter `bad`.
func (im Import) stage(ctx context.Context, tx *sqlx.Tx, bad *Error) (int, error) {
	statement, err := tx.PrepareContext(ctx, `
		COPY pg_temp.import_lines (line, digest, visible_prefix, name, scopes, owner, created_at, expires_at, revoked_at,
			attributes)
		FROM STDIN`)
	if err != nil {
		return 0, err
	}
	defer func() { _ = statement.Close() }()
	staged := 0
	for line, err := range im.Lines {
		if err != nil {
			return 0, err
		}
		if line.Problem == "" {
			line.Problem = im.validate(line)
		}
		parsed, err := attributes.Parse(string(line.Attributes))
		if line.Problem == "" && err != nil {
			line.Problem = "attributes: " + err.Error()
		}
		if line.Problem != "" {
			bad.add(1, BadLine{line.Number, line.Problem})
			continue
		}
		if line.Digest == nil {
			digest := line.Key.Digest()
			line.Digest, line.Prefix = &digest, im.Format.Visible(line.Key)
		}
		_, err = statement.ExecContext(ctx, line.Number, line.Digest[:], line.Prefix, line.Name,
			append(pq.StringArray{}, line.Scopes...), line.Workspace+line.User, line.CreatedAt, line.ExpiresAt, line.RevokedAt,
			parsed.JSON())
		if err != nil {
			return 0, err
		}
		staged++
	}
	_, err = statement.ExecContext(ctx)
	return staged, err
}

// check adds two kinds of lines to the parameter `bad`: lines that conflict with other lines or with existing tokens, and lines
// with an unknown owner. It finds owners in the same way as [registry.Registry.Workspace] and [registry.Registry.User].
func (im Import) check(ctx context.Context, tx *sqlx.Tx, bad *Error) error {
	byID, byName := `SELECT id FROM keywicket.workspaces WHERE id = l.owner`,
		`SELECT id FROM keywicket.workspaces WHERE slug = l.owner`
	if im.Format.Kind.OfUser() {
		byID, byName = `SELECT id FROM keywicket.users WHERE id = l.owner`,
			`SELECT id FROM keywicket.users WHERE lower(email) = lower(l.owner)`
	}
	for _, statement := range []string{
		`ANALYZE pg_temp.import_lines`,
		`CREATE TEMPORARY TABLE import_owners ON COMMIT DROP AS
			SELECT l.owner, COALESCE((` + byID + `), (` + byName + `)) AS id
			FROM (SELECT DISTINCT owner FROM pg_temp.import_lines) l`,
		`ANALYZE pg_temp.import_owners`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	var found []struct {
		Line   int    `db:"line"`
		Reason string `db:"reason"`
		Count  int    `db:"count"`
	}
	// Check names with the same expression as the table's constraint. The database's locale decides which characters are white
	// space or control characters in this expression.
	err := tx.SelectContext(ctx, &found, `
		SELECT line, reason, count(*) OVER () AS count
		FROM (
			SELECT l.line, CASE
				WHEN l.misnamed THEN $1
				WHEN o.id IS NULL THEN $2
				WHEN l.line > l.first THEN 'the same token is already on line ' || l.first
				WHEN t.id IS NOT NULL THEN 'this token exists already'
				WHEN l.created_at > clock_timestamp() THEN 'created_at is later than the database''s clock'
				WHEN l.revoked_at > clock_timestamp() THEN
					'revoked_at is later than the database''s clock: give a time in the past, or no time'
			END AS reason
			FROM (
				SELECT line, digest, owner, created_at, revoked_at, min(line) OVER (PARTITION BY digest) AS first,
					NOT (name ~ '\S' AND name !~ '[[:cntrl:]]') AS misnamed
				FROM pg_temp.import_lines
			) l
			JOIN pg_temp.import_owners o ON o.owner = l.owner
			LEFT JOIN keywicket.tokens t ON t.digest = l.digest
		) judged
		WHERE reason IS NOT NULL
		ORDER BY line
		LIMIT $3`, badName, unknownOwner(im.Format.Kind), maxBadLines)
	if err != nil {
		return err
	}
	for i, f := range found {
		count := 0
		if i == 0 {
			count = f.Count
		}
		bad.add(count, BadLine{f.Line, f.Reason})
	}
	return nil
}

// insert creates the tokens. It skips tokens that another transaction has created since the function check ran, because such a
// token would violate a constraint, and Postgres would log the digest.
func (im Import) insert(ctx context.Context, tx *sqlx.Tx) (int, error) {
	column := ownerOf(im.Format.Kind) + "_id"
	result, err := tx.ExecContext(ctx, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, `+column+`, created_at,
			expires_at, revoked_at, attributes, import_id)
		SELECT $1, $2, $3, l.visible_prefix, l.digest, l.name, l.scopes, o.id, COALESCE(l.created_at, clock_timestamp()),
			l.expires_at, l.revoked_at, l.attributes, import.id
		FROM (SELECT gen_random_uuid()::text AS id) AS import, pg_temp.import_lines l
		JOIN pg_temp.import_owners o ON o.owner = l.owner
		ORDER BY l.line
		ON CONFLICT (digest) DO NOTHING`, im.API, im.Format.Kind, im.Format.Environment)
	if err != nil {
		return 0, err
	}
	// If the table was empty when a sidecar started, the sidecar's query plan scans the whole table until Postgres has new
	// statistics. So update the statistics now. If the login of the import does not own the table, Postgres only logs a
	// warning, and autovacuum updates the statistics later.
	if _, err := tx.ExecContext(ctx, `ANALYZE keywicket.tokens`); err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
