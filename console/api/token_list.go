package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

const defaultLimit = 50 // objects on a page of a list

type tokenList struct {
	Tokens     []token `json:"tokens"`
	NextCursor *string `json:"next_cursor"`
}

func (t tokens) list(r *http.Request, c settings.Caller) (answer, error) {
	q, err := readQuery(r, "q", "status", "environment", "cursor", "limit")
	if err != nil {
		return answer{}, err
	}
	limit, err := q.number("limit", defaultLimit, console.MaxLimit)
	if err != nil {
		return answer{}, err
	}
	status, err := choice(q, "status", registry.Active, registry.Expired, registry.Revoked, console.Expiring, console.Unused)
	if err != nil {
		return answer{}, err
	}
	environment, err := choice(q, "environment", authz.Live, authz.Sandbox)
	if err != nil {
		return answer{}, err
	}
	found, err := t.Tokens(r.Context(), c, t.owner, settings.Query{
		Search: q["q"], Status: status, Environment: environment, After: q["cursor"], Limit: limit,
	})
	if err != nil {
		return answer{}, cursorError(q, err)
	}
	page := tokenList{Tokens: []token{}, NextCursor: orNil(found.Next)}
	for _, f := range found.Tokens {
		page.Tokens = append(page.Tokens, newToken(f.Token))
	}
	return answer{body: page}, nil
}

// choice returns the value of a parameter that has one of these values; empty: the request does not have the parameter.
func choice[T ~string](q query, name string, values ...T) (T, error) {
	value, ok := q[name]
	if ok && !slices.Contains(values, T(value)) {
		var texts []string
		for _, v := range values {
			texts = append(texts, string(v))
		}
		return "", badRequest("invalid_query", name, "The parameter "+name+" must be one of "+strings.Join(texts, ", ")+".")
	}
	return T(value), nil
}

// cursorError returns the error of a list. The operations check all other parameters first, so an invalid value is the cursor.
func cursorError(q query, err error) error {
	if q["cursor"] != "" && errors.Is(err, settings.ErrInvalid) {
		return badRequest("invalid_query", "cursor", "The cursor is not one that a previous page with the same filters has returned.")
	}
	return err
}

// orNil returns nil for an empty text. In JSON, an absent text is null.
func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

type usage struct {
	Days []day `json:"days"`
}

type day struct {
	Day     string `json:"day"`
	Allowed int64  `json:"allowed"`
	Denied  int64  `json:"denied"`
}

func (t tokens) usage(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	q, err := readQuery(r, "days")
	if err != nil {
		return answer{}, err
	}
	days, err := q.number("days", console.DaysOfUse, console.MaxDays)
	if err != nil {
		return answer{}, err
	}
	use, err := t.Use(r.Context(), c, t.owner, id, days)
	if err != nil {
		return answer{}, err
	}
	u := usage{Days: []day{}}
	for _, d := range use {
		u.Days = append(u.Days, day{d.Day.Format(time.DateOnly), d.Allowed, d.Denied})
	}
	return answer{body: u}, nil
}
