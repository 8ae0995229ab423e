package console

import (
	"context"
	"fmt"
	"strconv"

	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/database"
)

// ActivityFilter selects entries of the audit log. Either Workspace or Account, the id of a user, is the owner. Empty fields select all
// entries of the owner.
type ActivityFilter struct {
	Workspace, Account string
	API                string // entries about objects of the API, and about objects that belong to no API
	Actor              string // the id of an actor
	Action             string
	ObjectKind         string
	After              string // Activity.Next of the previous page; empty: the first page
	Limit              int    // 1 to MaxLimit
}

// Activity is a part of the audit log, newest first. Next is empty on the last page. A page can have few entries, or none, and still have a
// next page, because a query reads at most some thousand entries of the audit log.
type Activity struct {
	Entries []auditlog.Entry `json:"entries"`
	Next    string           `json:"next"`
}

// Activity lists the entries about the objects of one owner, newest first.
func (s *Store) Activity(ctx context.Context, f ActivityFilter) (Activity, error) {
	if (f.Workspace == "") == (f.Account == "") {
		return Activity{}, fmt.Errorf("read the activity: the filter needs one owner")
	}
	if f.Limit < 1 || f.Limit > MaxLimit {
		return Activity{}, database.NewRefusal(database.ErrInvalid, "the limit must be from 1 to %d", MaxLimit)
	}
	var after int64
	if f.After != "" {
		var err error
		if after, err = strconv.ParseInt(f.After, 10, 64); err != nil || after < 1 {
			return Activity{}, errCursor
		}
	}
	if !isText(f.Actor) || !isText(f.Action) || !isText(f.ObjectKind) {
		return Activity{}, database.NewRefusal(database.ErrInvalid, "a filter is not valid UTF-8, or has a NUL character")
	}
	entries, next, err := auditlog.Page(ctx, s.Registry, auditlog.Filter{
		Workspace: f.Workspace, Account: f.Account, API: f.API, ActorID: f.Actor, Action: f.Action, ObjectKind: f.ObjectKind, After: after, Limit: f.Limit,
	})
	if err != nil {
		return Activity{}, err
	}
	page := Activity{Entries: entries}
	if next != 0 {
		page.Next = strconv.FormatInt(next, 10)
	}
	return page, nil
}
