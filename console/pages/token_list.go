package pages

import (
	"strings"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
)

const (
	pageSize    = 25
	chartDays   = 30
	soonExpires = 14 * 24 * time.Hour
	longUnused  = 90 * 24 * time.Hour
)

// tokenList is the data of the template token_list.html.
type tokenList struct {
	*tokenPages
	Allowed  bool // the user may manage these tokens
	Search   string
	Status   registry.Status
	Statuses []registry.Status
	Rows     []tokenRow
	Next     string          // the id after which the next page begins; empty: this is the last page
	After    string          // the id after which this page begins
	Revoked  *registry.Token // the user has just revoked this token
}

// tokenRow is a token with what the page says about it.
type tokenRow struct {
	settings.ListedToken
	Soon   bool // the token expires soon
	Unused bool // nobody has used the token for a long time
	Chart  chart
}

func newTokenRow(t settings.ListedToken, now time.Time) tokenRow {
	row := tokenRow{ListedToken: t, Chart: newChart(t.Days, now, chartDays)}
	if t.Status == registry.Active {
		used := t.CreatedAt
		if t.LastUsedAt != nil {
			used = *t.LastUsedAt
		}
		row.Unused = now.Sub(used) > longUnused
		row.Soon = t.ExpiresAt != nil && t.ExpiresAt.Sub(now) < soonExpires
	}
	return row
}

// list shows the tokens.
func (t *tokenPages) list(v *visit) error {
	query := v.URL.Query()
	l := tokenList{
		tokenPages: t, Search: strings.TrimSpace(query.Get("q")), After: query.Get("after"),
		Statuses: []registry.Status{registry.Active, registry.Expired, registry.Revoked},
	}
	for _, s := range l.Statuses {
		if string(s) == query.Get("status") {
			l.Status = s
		}
	}
	if l.Allowed = v.Caller.Manages(t.owner); !l.Allowed {
		return v.render("token_list.html", l)
	}
	if id := query.Get("revoked"); id != "" {
		if token, err := t.settings.Token(v.Context(), v.Caller, t.owner, id); err == nil && token.Status == registry.Revoked {
			l.Revoked = &token
		}
	}
	tokens, more, err := t.settings.Tokens(v.Context(), v.Caller, t.owner, settings.Query{
		Search: visiblePart(v.Caller.API, l.Search), Status: l.Status, After: l.After, Limit: pageSize,
	})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, token := range tokens {
		l.Rows = append(l.Rows, newTokenRow(token, now))
	}
	if more {
		l.Next = tokens[len(tokens)-1].ID
	}
	return v.render("token_list.html", l)
}

// visiblePart returns the text without the secret part of a key, in case the user has pasted a whole key.
func visiblePart(api settings.API, search string) string {
	for _, f := range api.Formats {
		if strings.HasPrefix(search, f.Prefix) && f.VisiblePrefix > 0 && len(search) > f.VisiblePrefix {
			return search[:f.VisiblePrefix]
		}
	}
	return search
}
