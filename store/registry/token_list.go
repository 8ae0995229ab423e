package registry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

// TokenFilter selects tokens. The zero value selects all tokens.
type TokenFilter struct {
	// Workspace selects the tokens of a workspace, and User the tokens of a user.
	Workspace, User string
	// Prefix selects the tokens whose key may start with Prefix. Only the visible part of each key is stored. Prefix is sent to
	// the database. So if the caller has a whole key, it must set Prefix only to the key's visible part.
	Prefix string
	// ExpiringIn selects the active tokens that expire within this time. UnusedFor selects the active tokens that were created, and
	// not used, before this time. If both are set, tokens of either kind are selected.
	ExpiringIn, UnusedFor time.Duration
	// CreatorLeft selects the tokens of workspaces whose creator is not a member of the workspace.
	CreatorLeft bool
	// After is the id of a token. It selects the tokens that come after this token in the list.
	After string
	// Limit is the maximum number of tokens. 0 means no limit.
	Limit int
}

// Tokens lists tokens, newest first. If the creation times are equal, the token with the greater id comes first. To get the next
// page, set After to the id of the last token of the previous page. Each token is listed exactly once, even if other tokens are
// created between two pages.
func (r *Registry) Tokens(ctx context.Context, f TokenFilter) ([]Token, error) {
	var after Token
	if f.Workspace != "" {
		w, err := r.Workspace(ctx, f.Workspace)
		if err != nil {
			return nil, err
		}
		f.Workspace = w.ID
	}
	if f.User != "" {
		u, err := r.User(ctx, f.User)
		if err != nil {
			return nil, err
		}
		f.User = u.ID
	}
	if f.After != "" {
		var err error
		if after, err = r.Token(ctx, f.After); err != nil {
			return nil, err
		}
	}
	query, args := tokensQuery(f, after.CreatedAt)
	list := []Token{}
	if err := r.db.SelectContext(ctx, &list, query, args...); err != nil {
		return nil, fmt.Errorf("list the tokens: %w", err)
	}
	return list, nil
}

// tokensQuery returns a query that contains only the conditions of the filter, so that Postgres can use an index for each
// condition.
//
// For the tokens of an owner, the order starts with the owner, and the owner is a range. Otherwise, Postgres could choose the index
// tokens_created_at, and read the newer tokens of all other owners.
func tokensQuery(f TokenFilter, after time.Time) (string, []any) {
	var args []any
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	query := tokenQuery + `
WHERE true`
	order := `t.created_at DESC, t.id DESC`
	of := func(column, id string) {
		owner := arg(id)
		if f.Prefix != "" {
			query += ` AND ` + column + ` = ` + owner
			return
		}
		query += ` AND ` + column + ` >= ` + owner + ` AND ` + column + ` <= ` + owner
		order = column + ` DESC, ` + order
	}
	if f.Workspace != "" {
		of(`t.workspace_id`, f.Workspace)
	}
	if f.User != "" {
		of(`t.user_id`, f.User)
	}
	if f.Prefix != "" {
		// The visible part of a token may be shorter than the prefix.
		starts := make(pq.StringArray, 0, len(f.Prefix))
		for i := range f.Prefix {
			starts = append(starts, f.Prefix[:i])
		}
		const prefix = `t.visible_prefix COLLATE "C"` // as in the index
		query += ` AND (` + prefix + ` LIKE ` + arg(likeEscaper.Replace(f.Prefix)+"%") + ` OR ` + prefix + ` = ANY (` + arg(starts) + `))`
	}
	const active = ` AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > statement_timestamp())`
	ahead := func(d time.Duration) string {
		return `statement_timestamp() + ` + arg(d.Seconds()) + ` * interval '1 second'`
	}
	expiring := func() string { return `t.expires_at <= ` + ahead(f.ExpiringIn) }
	unused := func() string {
		since := ahead(-f.UnusedFor)
		return `t.created_at < ` + since + ` AND COALESCE(u.last_used_at, t.created_at) < ` + since
	}
	switch {
	case f.ExpiringIn > 0 && f.UnusedFor > 0:
		query += active + ` AND (` + expiring() + ` OR ` + unused() + `)`
	case f.ExpiringIn > 0:
		query += ` AND t.revoked_at IS NULL AND t.expires_at > statement_timestamp() AND ` + expiring()
		// Few tokens expire soon, and often they are old. With this order, Postgres does not walk from the newest token to them.
		order = strings.Replace(order, `t.created_at DESC`, `t.created_at + interval '0' DESC`, 1)
	case f.UnusedFor > 0:
		query += active + ` AND ` + unused()
	}
	if f.CreatorLeft {
		query += ` AND ` + creatorLeft
	}
	if f.After != "" {
		query += ` AND (t.created_at, t.id) < (` + arg(after) + `, ` + arg(f.After) + `)`
	}
	query += `
ORDER BY ` + order
	if f.Limit > 0 {
		query += ` LIMIT ` + arg(f.Limit)
	}
	return query, args
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// TokensByID returns the tokens with the ids that exist, in any order.
func (r *Registry) TokensByID(ctx context.Context, ids []string) ([]Token, error) {
	list := []Token{}
	if err := r.db.SelectContext(ctx, &list, tokenQuery+` WHERE t.id = ANY ($1)`, pq.StringArray(ids)); err != nil {
		return nil, fmt.Errorf("find the tokens: %w", err)
	}
	return list, nil
}
