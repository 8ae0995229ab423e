package api

import (
	"errors"
	"net/http"

	"github.com/keywicket/keywicket/console/settings"
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
	status := registry.Status(q["status"])
	switch status {
	case "", registry.Active, registry.Expired, registry.Revoked:
	default:
		return answer{}, badRequest("invalid_query", "status", "The parameter status must be active, expired or revoked.")
	}
	found, more, err := t.Tokens(r.Context(), c, t.owner, settings.Query{Search: q["q"], Status: status, After: q["cursor"], Limit: limit})
	switch {
	case q["cursor"] != "" && errors.Is(err, settings.ErrNotFound):
		return answer{}, errCursor
	case err != nil:
		return answer{}, err
	}
	page := tokenList{Tokens: []token{}}
	for _, f := range found {
		page.Tokens = append(page.Tokens, newToken(f.Token))
	}
	if more {
		page.NextCursor = &page.Tokens[len(page.Tokens)-1].ID
	}
	return answer{body: page}, nil
}
