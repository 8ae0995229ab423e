package settings

import (
	"context"
	"regexp"
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

// words finds the texts in which a credential can be: all its characters are those of a token (RFC 6750, section 2.1).
var words = regexp.MustCompile(`[A-Za-z0-9._~+/-]+`)

// VisiblePart returns a text that contains no secret, to search for names and visible prefixes that start with it. Users search for a
// token by its key, and may paste the key with other text, or another secret. If the text contains a key, VisiblePart returns the key's
// visible prefix. It cuts a text in its first long word: a search for the start of the text finds what a search for the text finds.
func (a API) VisiblePart(text string) string {
	const longest, shown = 32, 16 // a longer word may be the secret of an app, or a credential of another kind
	for _, at := range words.FindAllStringIndex(text, -1) {
		word := text[at[0]:at[1]]
		for _, f := range a.Formats {
			if strings.HasPrefix(word, f.Prefix) && len(word) > f.VisiblePrefix {
				return word[:f.VisiblePrefix]
			}
		}
		if len(word) > longest {
			return text[:at[0]+shown]
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
