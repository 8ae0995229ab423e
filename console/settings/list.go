package settings

import (
	"context"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/console"
)

// Query selects tokens for a list.
type Query struct {
	// Search is the start of a name or of a visible prefix. If it is a whole key, only its visible prefix is used.
	Search      string
	Status      console.Status    // empty: every status
	Environment authz.Environment // empty: every environment
	After       string            // Page.Next of the previous page; empty: the first page
	Limit       int               // 1 to console.MaxLimit
}

// VisiblePart returns the visible prefix if the text is a key, and otherwise the text. Users search for a token by its key.
func (a API) VisiblePart(text string) string {
	for _, f := range a.Formats {
		if strings.HasPrefix(text, f.Prefix) && len(text) > f.VisiblePrefix {
			return text[:f.VisiblePrefix]
		}
	}
	return text
}

// Tokens lists tokens of the caller's workspace, or keys of the caller, newest first.
func (s *Settings) Tokens(ctx context.Context, c Caller, o Owner, q Query) (console.Page, error) {
	if err := c.mayManage(o); err != nil {
		return console.Page{}, err
	}
	f := console.Filter{
		Workspace: c.workspaceOf(o), User: c.userOf(o), API: c.API.Name, Status: q.Status, Environment: q.Environment, After: q.After, Limit: q.Limit,
		Search: c.API.VisiblePart(q.Search),
	}
	for _, format := range c.API.FormatsOf(o) {
		f.Kinds = append(f.Kinds, format.Kind)
	}
	return s.store.Tokens(ctx, f)
}

// Use returns the requests of a token per day, oldest first. The last day is today, in UTC.
func (s *Settings) Use(ctx context.Context, c Caller, o Owner, id string, days int) ([]console.Day, error) {
	if _, err := s.Token(ctx, c, o, id); err != nil {
		return nil, err
	}
	return s.store.Use(ctx, id, days)
}
