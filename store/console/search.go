package console

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// walk is an order of an owner's tokens in which an index finds them.
type walk struct {
	name string
	key  string // the expression by which the walk is sorted; tokens with equal keys are sorted by id
	kind string // the type of the key
	desc bool
	only func(newArgument) string // returns the condition for tokens of the walk; nil: all
}

// newArgument adds an argument to a query, and returns its placeholder.
type newArgument func(any) string

// nameKey is the expression of the index tokens_workspace_name, and prefixKey that of tokens_prefix.
const (
	nameLength = 64
	nameKey    = `lower("left"(t.name, 64)) COLLATE "C"`
	prefixKey  = `t.visible_prefix COLLATE "C"`
)

// walks returns the walks of the filter, which a list makes one after the other.
func (f Filter) walks() []walk {
	newest := walk{name: "newest", key: `t.created_at`, kind: "timestamptz", desc: true}
	switch {
	case f.Search != "":
		return []walk{
			{name: "name", key: nameKey, kind: "text", only: f.named},
			{name: "prefix", key: prefixKey, kind: "text", only: func(arg newArgument) string {
				return prefixKey + ` LIKE ` + arg(likeEscaper.Replace(f.Search)+"%") + ` AND NOT (` + f.named(arg) + `)`
			}},
		}
	case f.Status == registry.Expired, f.Status == Expiring:
		return []walk{{
			name: string(f.Status), key: `t.expires_at`, kind: "timestamptz", desc: f.Status == registry.Expired,
			only: func(arg newArgument) string { return `t.expires_at IS NOT NULL AND ` + f.condition(arg) },
		}}
	case f.Status == registry.Revoked:
		newest.only = f.condition
	case f.Status == Unused:
		newest.only = func(arg newArgument) string {
			return `t.created_at < statement_timestamp() - ` + seconds(UnusedFor, arg)
		}
	}
	return []walk{newest}
}

// named returns the condition for tokens whose name starts with the search text.
func (f Filter) named(arg newArgument) string {
	starts := func(key, text string) string { return key + ` LIKE lower(` + arg(likeEscaper.Replace(text)+"%") + `)` }
	text := []rune(f.Search)
	if len(text) <= nameLength {
		return starts(nameKey, f.Search)
	}
	return starts(nameKey, string(text[:nameLength])) + ` AND ` + starts(`lower(t.name) COLLATE "C"`, f.Search)
}

func seconds(d time.Duration, arg newArgument) string {
	return arg(d.Seconds()) + ` * interval '1 second'`
}

// condition returns the condition for the filter's status.
func (f Filter) condition(arg newArgument) string {
	const active = `revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())`
	var c string
	switch f.Status {
	case registry.Active:
		c = `t.` + active
	case registry.Revoked:
		c = `t.revoked_at IS NOT NULL`
	case registry.Expired:
		c = `t.revoked_at IS NULL AND t.expires_at <= statement_timestamp()`
	case Expiring:
		c = `t.revoked_at IS NULL AND t.expires_at > statement_timestamp() AND t.expires_at <= statement_timestamp() + ` +
			seconds(Soon, arg)
	case Unused:
		c = `t.` + active + ` AND COALESCE((SELECT u.last_used_at FROM keywicket.token_usage u WHERE u.token_id = t.id), t.created_at)
			< statement_timestamp() - ` + seconds(UnusedFor, arg)
	default:
		return `true`
	}
	return c
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// position is the place of a token in a walk. It is the content of a cursor.
type position struct {
	Walk string `json:"w"`
	Key  string `db:"key" json:"k"` // as Postgres writes it
	ID   string `db:"id" json:"i"`
}

func (p position) cursor() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // impossible: three texts
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

var errCursor = database.NewRefusal(database.ErrInvalid, "the cursor is not valid: use the value that the previous page returned, with the same filters")

func parseCursor(cursor string) (p position, err error) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || json.Unmarshal(text, &p) != nil || p.ID == "" || !isText(p.Key) || !isText(p.ID) {
		return position{}, errCursor
	}
	return p, nil
}

// isText reports whether Postgres accepts the text.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// maxRead is the number of tokens that a page reads in a walk, at most. Without it, a rare status or environment could make Postgres
// read all tokens of a workspace.
const maxRead = 3000

// find returns the positions of the tokens on the page, and the cursor of the next page.
func (s *Store) find(ctx context.Context, f Filter) (page []position, next string, err error) {
	var after position
	if f.After != "" {
		if after, err = parseCursor(f.After); err != nil {
			return nil, "", err
		}
	}
	walks := f.walks()
	if f.After != "" {
		from := slices.IndexFunc(walks, func(w walk) bool { return w.name == after.Walk })
		if from < 0 {
			return nil, "", errCursor
		}
		walks = walks[from:]
	}
	for _, w := range walks {
		wanted := f.Limit + 1 - len(page)
		var rows []position
		query, args := f.query(w.name, after, wanted, false)
		if err := s.db.SelectContext(ctx, &rows, query, args...); err != nil {
			return nil, "", listError(err)
		}
		for _, r := range rows {
			r.Walk = w.name
			page = append(page, r)
		}
		if len(page) > f.Limit {
			page = page[:f.Limit]
			return page, page[f.Limit-1].cursor(), nil
		}
		var last []position
		query, args = f.query(w.name, after, 1, true)
		if err := s.db.SelectContext(ctx, &last, query, args...); err != nil {
			return nil, "", listError(err)
		}
		if len(last) > 0 {
			last[0].Walk = w.name
			return page, last[0].cursor(), nil
		}
		after = position{}
	}
	return page, "", nil
}

// listError returns the error of a query. A cursor that was changed can contain a key that is no time.
func listError(err error) error {
	if e := pq.As(err); e != nil && e.Code.Class() == "22" {
		return errCursor
	}
	return fmt.Errorf("list the tokens: %w", err)
}

// query returns the query for the next tokens of a walk. If last is true, it returns the last token that such a query reads, if it
// reads maxRead tokens.
//
// The order starts with the owner, and the owner is a range. Otherwise, Postgres could choose the index tokens_created_at, and read the
// newer tokens of all other workspaces.
func (f Filter) query(name string, after position, limit int, last bool) (string, []any) {
	var args []any
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	column, id := "t.workspace_id", f.Workspace
	if f.User != "" {
		column, id = "t.user_id", f.User
	}
	owner := arg(id) + "::text"
	walks := f.walks()
	w := walks[slices.IndexFunc(walks, func(w walk) bool { return w.name == name })]
	compare, direction := ">", ""
	if w.desc {
		compare, direction = "<", " DESC"
	}
	where := column + ` = ` + owner
	order := w.key + direction + `, t.id` + direction
	if w.key == `t.created_at` {
		where = column + ` >= ` + owner + ` AND ` + column + ` <= ` + owner
		order = column + direction + `, ` + order
	}
	if w.only != nil {
		where += ` AND ` + w.only(arg)
	}
	if after.ID != "" {
		key, at := arg(after.Key)+`::text::`+w.kind, arg(after.ID)
		if w.key == `t.created_at` {
			where += ` AND (` + column + `, t.created_at, t.id) < (` + owner + `, ` + key + `, ` + at + `)`
		} else {
			where += ` AND (` + w.key + `, t.id) ` + compare + ` (` + key + `, ` + at + `)`
		}
	}
	read := `
		SELECT t.id, ` + w.key + ` AS key, t.api, t.kind, t.environment, t.created_at, t.expires_at, t.revoked_at
		FROM keywicket.tokens t WHERE ` + where + ` ORDER BY ` + order + ` LIMIT ` + arg(maxRead)
	if last {
		return `SELECT t.id, t.key::text AS key FROM (` + read + `) AS t OFFSET ` + arg(maxRead-1), args
	}
	kinds := make(pq.StringArray, len(f.Kinds))
	for i, k := range f.Kinds {
		kinds[i] = string(k)
	}
	query := `SELECT t.id, t.key::text AS key FROM (` + read + `) AS t WHERE t.api = ` + arg(f.API) + ` AND t.kind = ANY (` + arg(kinds) + `)`
	if f.Environment != "" {
		query += ` AND t.environment = ` + arg(string(f.Environment))
	}
	return query + ` AND ` + f.condition(arg) + ` LIMIT ` + arg(limit), args
}
