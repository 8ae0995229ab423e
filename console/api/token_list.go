package api

import (
	"errors"
	"net/http"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

// The numbers of objects on a page of a list.
const (
	defaultLimit = 50
	maxLimit     = 100
)

type tokenList struct {
	Tokens     []token `json:"tokens"`
	NextCursor *string `json:"next_cursor"`
}

func (t tokens) list(r *http.Request, c settings.Caller) (answer, error) {
	q, err := readQuery(r, "q", "status", "cursor", "limit")
	if err != nil {
		return answer{}, err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return answer{}, err
	}
	status := console.Status(q["status"])
	switch status {
	case "", registry.Active, registry.Expired, registry.Revoked, console.Expiring, console.Unused:
	default:
		return answer{}, badRequest("invalid_query", "status", "The parameter status must be active, expired, revoked, expiring or unused.")
	}
	found, err := t.Tokens(r.Context(), c, t.owner, settings.Query{Search: q["q"], Status: status, After: q["cursor"], Limit: limit})
	switch {
	case q["cursor"] != "" && errors.Is(err, settings.ErrInvalid):
		return answer{}, errCursor
	case err != nil:
		return answer{}, err
	}
	page := tokenList{Tokens: []token{}}
	for _, f := range found.Tokens {
		page.Tokens = append(page.Tokens, newToken(f.Token))
	}
	if found.Next != "" {
		page.NextCursor = &found.Next
	}
	return answer{body: page}, nil
}
