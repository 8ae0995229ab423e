package settings

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/store/registry"
)

// Query selects tokens for a list.
type Query struct {
	Search string          // the start of a name or of a visible prefix; empty: all tokens
	Status registry.Status // empty: all tokens
	After  string          // the id of the last token of the previous page
	Limit  int
}

// Creator is the user who created a token.
type Creator struct {
	ID, Email string
	Left      bool // the user is no longer a member of the workspace
}

// Day is the use of a token on one day, in UTC.
type Day struct {
	Date            time.Time
	Allowed, Denied int64
}

// ListedToken is a token in a list.
type ListedToken struct {
	registry.Token
	Creator *Creator // nil: unknown
	Days    []Day    // the days on which the token was used, oldest first
}

// Tokens lists tokens of the caller's workspace, or keys of the caller, newest first. The result `more` reports whether another page
// follows.
func (s *Settings) Tokens(ctx context.Context, c Caller, o Owner, q Query) (list []ListedToken, more bool, err error) {
	if err := c.mayManage(o); err != nil {
		return nil, false, err
	}
	f := registry.TokenFilter{After: q.After, Limit: 10 * q.Limit}
	if o == OfUser {
		f.User = c.userOf(o)
	} else {
		f.Workspace = c.workspaceOf(o)
	}
	tokens, err := s.store.Registry.Tokens(ctx, f)
	if err != nil {
		return nil, false, err
	}
	search := strings.ToLower(q.Search)
	tokens = slices.DeleteFunc(tokens, func(t registry.Token) bool {
		return !c.owns(o, t) || q.Status != "" && t.Status != q.Status ||
			!strings.HasPrefix(strings.ToLower(t.Name), search) && !strings.HasPrefix(strings.ToLower(t.Prefix), search)
	})
	for _, t := range tokens[:min(len(tokens), q.Limit)] {
		list = append(list, ListedToken{Token: t})
	}
	return list, len(tokens) > q.Limit, nil
}
