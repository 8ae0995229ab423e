package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
)

// Event is an entry of the audit log, as a user reads it.
type Event struct {
	ID         int64
	At         time.Time
	Action     string // one of [Actions]
	ObjectKind string // one of [ObjectKinds]
	ObjectID   string // empty if the event is about several objects
	// Actor is who caused the change. Text is a sentence that says what happened.
	Actor, Text string
	// Changes are the values that the change replaced or wrote. They contain no secret, and no data that only the operator understands.
	Changes []Change
	// Source is the address of the actor's client, and RequestID the id of the actor's request; empty: unknown.
	Source, RequestID string
}

// Change is a value before and after a change. An empty text means: no value.
type Change struct{ Field, Before, After string }

// Actions are the actions of events. ObjectKinds are the kinds of objects.
var (
	Actions     = []string{"create", "change", "rotate", "revoke", "restore", "delete", "import", "truncate"}
	ObjectKinds = []string{"token", "member", "workspace", "app", "grant", "grant_workspace", "session", "user"}
)

// ActivityFilter selects events. Empty fields select all events.
type ActivityFilter struct {
	Action, ObjectKind string
	Actor              string // the email address of a user, or the id of a user, a token or an app
	Cursor             string // Activity.Next of the previous page
	Limit              int    // the maximum number of events, at most 100; 0 means 50
}

// Activity is a page of events, newest first. Next is the cursor of the next page; empty on the last page. A page can have few events, or
// none, and still have a next page, because a query reads at most some thousand entries of the audit log.
type Activity struct {
	Events []Event
	Next   string
}

// WorkspaceActivity returns what happened in the caller's workspace. The caller must be allowed to manage the tokens of the workspace.
func (s *Settings) WorkspaceActivity(ctx context.Context, c Caller, f ActivityFilter) (Activity, error) {
	if err := c.mayManage(OfWorkspace); err != nil {
		return Activity{}, err
	}
	return s.activity(ctx, c, f, console.ActivityFilter{Workspace: c.Workspace.ID})
}

// AccountActivity returns what happened to the caller's account, keys, apps and grants.
func (s *Settings) AccountActivity(ctx context.Context, c Caller, f ActivityFilter) (Activity, error) {
	if c.User.ID == "" || !c.API.Rules.ManagesApps(c.Maker) {
		return Activity{}, database.NewRefusal(ErrForbidden, "You may not see this activity.")
	}
	return s.activity(ctx, c, f, console.ActivityFilter{Account: c.User.ID})
}

func (s *Settings) activity(ctx context.Context, c Caller, f ActivityFilter, of console.ActivityFilter) (Activity, error) {
	of.API, of.Action, of.ObjectKind, of.After, of.Limit = c.API.Name, f.Action, f.ObjectKind, f.Cursor, f.Limit
	switch {
	case f.Action != "" && !slices.Contains(Actions, f.Action):
		return Activity{}, &FieldError{Field: "action", Text: "The action must be one of " + strings.Join(Actions, ", ") + "."}
	case f.ObjectKind != "" && !slices.Contains(ObjectKinds, f.ObjectKind):
		return Activity{}, &FieldError{Field: "object_kind", Text: "The kind must be one of " + strings.Join(ObjectKinds, ", ") + "."}
	case !utf8.ValidString(f.Actor) || strings.ContainsRune(f.Actor, 0):
		return Activity{}, &FieldError{Field: "actor", Text: "The actor has characters that cannot be searched."}
	case f.Limit < 0 || f.Limit > console.MaxLimit:
		return Activity{}, &FieldError{Field: "limit", Text: fmt.Sprintf("The limit must be from 1 to %d.", console.MaxLimit)}
	case f.Limit == 0:
		of.Limit = 50
	}
	var err error
	if of.Actor, err = s.actorID(ctx, strings.TrimSpace(f.Actor)); err != nil {
		return Activity{}, err
	}
	page, err := s.store.Activity(ctx, of)
	switch {
	case errors.Is(err, ErrInvalid):
		return Activity{}, &FieldError{Field: "cursor", Text: sentence(err)}
	case err != nil:
		return Activity{}, err
	}
	events, err := s.events(ctx, page.Entries)
	return Activity{Events: events, Next: page.Next}, err
}

// actorID returns the id of an actor. An email address that nobody has selects no events.
func (s *Settings) actorID(ctx context.Context, actor string) (string, error) {
	if !strings.Contains(actor, "@") {
		return actor, nil
	}
	user, err := s.store.Registry.User(ctx, actor)
	if errors.Is(err, database.ErrNotFound) {
		return actor, nil
	}
	return user.ID, err
}

// events describes entries of the audit log in words.
func (s *Settings) events(ctx context.Context, entries []auditlog.Entry) ([]Event, error) {
	var ids console.References
	for _, e := range entries {
		switch value(e.ActorKind) {
		case database.ActorUser:
			ids.Users = append(ids.Users, value(e.ActorID))
		case database.ActorToken:
			ids.Tokens = append(ids.Tokens, value(e.ActorID))
		case database.ActorApp:
			ids.Apps = append(ids.Apps, value(e.ActorID))
		}
		switch e.ObjectKind {
		case "token":
			ids.Tokens = append(ids.Tokens, value(e.ObjectID))
		case "grant", "grant_workspace":
			grant, _, _ := strings.Cut(value(e.ObjectID), "/")
			ids.Grants = append(ids.Grants, grant)
		}
		ids.Users = append(ids.Users, value(e.UserID))
		ids.Workspaces = append(ids.Workspaces, value(e.WorkspaceID))
	}
	names, err := s.store.Names(ctx, ids)
	if err != nil {
		return nil, err
	}
	events := []Event{}
	for _, e := range entries {
		d, err := describe(e, names)
		if err != nil {
			return nil, fmt.Errorf("describe the audit log's entry %d: %w", e.ID, err)
		}
		events = append(events, d)
	}
	return events, nil
}

// value returns the value, or the zero value for nil.
func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
