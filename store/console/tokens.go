package console

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Status selects tokens. It has the values of [registry.Status] and two more.
type Status = registry.Status

// Expiring selects active tokens that expire within [Soon]. Unused selects active tokens that were created, and not used, in the last
// [UnusedFor].
const (
	Expiring Status = "expiring"
	Unused   Status = "unused"

	Soon      = 14 * 24 * time.Hour
	UnusedFor = 90 * 24 * time.Hour
)

// MaxLimit is the maximum number of tokens, or of other objects, on a page.
const MaxLimit = 100

// Filter selects tokens. Either Workspace or User is the id of the owner. API and Kinds are required.
type Filter struct {
	Workspace, User string
	API             string
	Kinds           []authz.Kind
	// Search is the start of the name, in upper or lower case, or the start of the visible prefix. A caller must shorten a whole key
	// to its visible prefix, because Search is sent to the database.
	Search      string
	Status      Status            // empty: every status
	Environment authz.Environment // empty: every environment
	After       string            // Page.Next of the previous page; empty: the first page
	Limit       int               // 1 to MaxLimit
}

// Page is a part of a list. Next is empty on the last page. A page can have fewer tokens than the limit, or none, and still have a
// next page: a query reads at most some thousand tokens to find the next ones.
type Page struct {
	Tokens []Token `json:"tokens"`
	Next   string  `json:"next"`
}

// Token is a token with its creator and its use.
type Token struct {
	registry.Token
	Creator *string `json:"creator"` // email of the user who created the token; nil: unknown, or the user no longer exists
	Use     []Day   `json:"use"`     // of the last DaysOfUse days
}

// DaysOfUse is the number of days in Token.Use.
const DaysOfUse = 30

// Tokens lists tokens of one owner, newest first. The order of a search is: the found names in alphabetical order, then the found
// visible prefixes. Without a search, expiring tokens are listed by their expiry, and expired tokens in the reverse order.
//
// In these orders, an index finds each page quickly. A search that is sorted by time would have to read all tokens that it finds, or all
// tokens of the workspace.
func (s *Store) Tokens(ctx context.Context, f Filter) (Page, error) {
	if err := f.validate(); err != nil {
		return Page{}, err
	}
	found, next, err := s.find(ctx, f)
	if err != nil {
		return Page{}, err
	}
	ids := make([]string, len(found))
	for i, p := range found {
		ids[i] = p.ID
	}
	page := Page{Tokens: make([]Token, 0, len(ids)), Next: next}
	if len(ids) == 0 {
		return page, nil
	}
	list, err := s.Registry.TokensByID(ctx, ids)
	if err != nil {
		return Page{}, err
	}
	use, err := s.use(ctx, ids, DaysOfUse)
	if err != nil {
		return Page{}, err
	}
	creators, err := s.creators(ctx, ids)
	if err != nil {
		return Page{}, err
	}
	for _, t := range list {
		token := Token{Token: t, Use: use[t.ID]}
		if email, ok := creators[t.ID]; ok {
			token.Creator = &email
		}
		page.Tokens = append(page.Tokens, token)
	}
	slices.SortFunc(page.Tokens, func(a, b Token) int { return slices.Index(ids, a.ID) - slices.Index(ids, b.ID) })
	return page, nil
}

func (f Filter) validate() error {
	switch {
	case (f.Workspace == "") == (f.User == ""), f.API == "", len(f.Kinds) == 0:
		return fmt.Errorf("list the tokens: the filter needs one owner, an API and kinds")
	case f.Limit < 1 || f.Limit > MaxLimit:
		return database.NewRefusal(database.ErrInvalid, "the limit must be from 1 to %d", MaxLimit)
	case !isText(f.Search):
		return database.NewRefusal(database.ErrInvalid, "the search text is not valid UTF-8, or has a NUL character")
	}
	switch f.Status {
	case "", registry.Active, registry.Expired, registry.Revoked, Expiring, Unused:
	default:
		return database.NewRefusal(database.ErrInvalid, "the status %q is not valid: write active, expired, revoked, expiring or unused", f.Status)
	}
	switch f.Environment {
	case "", authz.Live, authz.Sandbox:
		return nil
	}
	return database.NewRefusal(database.ErrInvalid, "the environment %q is not valid: write live or sandbox", f.Environment)
}

// creators returns the emails of the users who created the tokens, by the id of the token.
func (s *Store) creators(ctx context.Context, ids []string) (map[string]string, error) {
	var rows []struct{ ID, Email string }
	err := s.db.SelectContext(ctx, &rows, `
		SELECT t.id, u.email FROM keywicket.tokens t JOIN keywicket.users u ON u.id = t.created_by WHERE t.id = ANY ($1)`, pq.StringArray(ids))
	if err != nil {
		return nil, fmt.Errorf("find the creators of tokens: %w", err)
	}
	creators := make(map[string]string, len(rows))
	for _, r := range rows {
		creators[r.ID] = r.Email
	}
	return creators, nil
}
