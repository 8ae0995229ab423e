package pages

import (
	"strings"
	"time"

	"github.com/keywicket/keywicket/console/pages/chart"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

// pageSize is the number of tokens on a page of the list.
const pageSize = 25

// tokenList is the data of the template token_list.html.
type tokenList struct {
	*tokenPages
	Allowed  bool // the user may manage these tokens
	Search   string
	Status   console.Status
	Statuses []console.Status
	Rows     []tokenRow
	Next     string          // the cursor of the next page; empty: this is the last page
	After    string          // the cursor of this page; empty: this is the first page
	Revoked  *registry.Token // the user has just revoked this token
	// LeaverRule is what happens to tokens whose creator leaves; empty for the keys of a user.
	LeaverRule registry.LeaverRule
}

// tokenRow is a token with what the page says about it.
type tokenRow struct {
	console.Token
	Soon   bool // the token expires soon
	Unused bool // nobody has used the token for a long time
	Chart  chart.Chart
}

func newTokenRow(t console.Token, now time.Time) tokenRow {
	row := tokenRow{Token: t, Chart: chart.New(t.Use)}
	if t.Status == registry.Active {
		used := t.CreatedAt
		if t.LastUsedAt != nil {
			used = *t.LastUsedAt
		}
		row.Unused = now.Sub(used) > console.UnusedFor
		row.Soon = t.ExpiresAt != nil && t.ExpiresAt.Sub(now) < console.Soon
	}
	return row
}

// search redirects to the list with the found tokens. The form is sent with POST, because users may search for a whole key, and a
// secret must not be in a URL. The function changes nothing, so the form needs no proof.
func (t *tokenPages) search(v *visit) error {
	return v.redirect(v.Link("", "q", t.api.VisiblePart(strings.TrimSpace(v.PostFormValue("q"))), "status", v.PostFormValue("status")))
}

// list shows the tokens.
func (t *tokenPages) list(v *visit) error {
	query := v.URL.Query()
	if search := query.Get("q"); t.api.VisiblePart(search) != search {
		return v.redirect(v.Link("", "q", t.api.VisiblePart(search), "status", query.Get("status")))
	}
	l := tokenList{
		tokenPages: t, Search: query.Get("q"), After: query.Get("after"),
		Statuses: []console.Status{registry.Active, console.Expiring, console.Unused, registry.Expired, registry.Revoked},
	}
	for _, s := range l.Statuses {
		if string(s) == query.Get("status") {
			l.Status = s
		}
	}
	if l.Allowed = v.Caller.Manages(t.owner); !l.Allowed {
		return v.render("token_list.html", l)
	}
	if t.owner == settings.OfWorkspace {
		var err error
		if l.LeaverRule, err = t.settings.LeaverRule(v.Context(), v.Caller); err != nil {
			return err
		}
	}
	if id := query.Get("revoked"); id != "" {
		if token, err := t.settings.Token(v.Context(), v.Caller, t.owner, id); err == nil && token.Status == registry.Revoked {
			l.Revoked = &token
		}
	}
	page, err := t.settings.Tokens(v.Context(), v.Caller, t.owner, settings.Query{Search: l.Search, Status: l.Status, After: l.After, Limit: pageSize})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, token := range page.Tokens {
		l.Rows = append(l.Rows, newTokenRow(token, now))
	}
	l.Next = page.Next
	return v.render("token_list.html", l)
}
