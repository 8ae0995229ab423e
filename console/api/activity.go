package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
)

type activity struct {
	Events     []event `json:"events"`
	NextCursor *string `json:"next_cursor"`
}

// event is a change of the audit log.
type event struct {
	ID         string    `json:"id"`
	At         time.Time `json:"at"`
	Action     string    `json:"action"`
	ObjectKind string    `json:"object_kind"`
	ObjectID   *string   `json:"object_id"`
	Actor      string    `json:"actor"`
	Text       string    `json:"text"`
	Changes    []change  `json:"changes"`
	Source     *string   `json:"source"`
	RequestID  *string   `json:"request_id"`
}

type change struct {
	Field  string  `json:"field"`
	Before *string `json:"before"`
	After  *string `json:"after"`
}

func newEvent(e settings.Event) event {
	result := event{
		ID: strconv.FormatInt(e.ID, 10), At: e.At, Action: e.Action, ObjectKind: e.ObjectKind, ObjectID: orNil(e.ObjectID), Actor: e.Actor, Text: e.Text,
		Changes: []change{}, Source: orNil(e.Source), RequestID: orNil(e.RequestID),
	}
	for _, c := range e.Changes {
		result.Changes = append(result.Changes, change{c.Field, orNil(c.Before), orNil(c.After)})
	}
	return result
}

func (a *API) listActivity(r *http.Request, c settings.Caller) (answer, error) {
	return listEvents(r, c, a.settings.WorkspaceActivity)
}

func (a *API) listAccountActivity(r *http.Request, c settings.Caller) (answer, error) {
	return listEvents(r, c, a.settings.AccountActivity)
}

func listEvents(
	r *http.Request, c settings.Caller, read func(context.Context, settings.Caller, settings.ActivityFilter) (settings.Activity, error),
) (answer, error) {
	q, err := readQuery(r, "action", "object_kind", "actor", "cursor", "limit")
	if err != nil {
		return answer{}, err
	}
	limit, err := q.number("limit", defaultLimit, console.MaxLimit)
	if err != nil {
		return answer{}, err
	}
	action, err := choice(q, "action", settings.Actions...)
	if err != nil {
		return answer{}, err
	}
	kind, err := choice(q, "object_kind", settings.ObjectKinds...)
	if err != nil {
		return answer{}, err
	}
	found, err := read(r.Context(), c, settings.ActivityFilter{Action: action, ObjectKind: kind, Actor: q["actor"], Cursor: q["cursor"], Limit: limit})
	if err != nil {
		return answer{}, cursorError(q, err)
	}
	page := activity{Events: []event{}, NextCursor: orNil(found.Next)}
	for _, e := range found.Events {
		page.Events = append(page.Events, newEvent(e))
	}
	return answer{body: page}, nil
}
