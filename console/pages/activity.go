package pages

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/keywicket/keywicket/console/settings"
)

// activityPages are the pages of what happened in a workspace, or to a user's account.
type activityPages struct {
	section section
	read    func(context.Context, settings.Caller, settings.ActivityFilter) (settings.Activity, error)
}

// addActivity adds a page of activity.
func (s *site) addActivity(title string, account bool) {
	a := &activityPages{s.addSection(title, account), s.settings.WorkspaceActivity}
	if account {
		a.read = s.settings.AccountActivity
	}
	s.page(a.section, "", a.list)
}

// activityList is the data of the template activity.html.
type activityList struct {
	Allowed        bool // the user may see the activity
	Filter         settings.ActivityFilter
	Actions, Kinds []string
	Events         []settings.Event
	Next           string
}

func (a *activityPages) list(v *visit) error {
	query := v.URL.Query()
	l := activityList{
		Allowed: true, Actions: settings.Actions, Kinds: settings.ObjectKinds,
		Filter: settings.ActivityFilter{
			Action: query.Get("action"), ObjectKind: query.Get("kind"), Actor: strings.TrimSpace(query.Get("actor")), Cursor: query.Get("after"), Limit: pageSize,
		},
	}
	activity, err := a.read(v.Context(), v.Caller, l.Filter)
	mistake, isMistake := errors.AsType[*settings.FieldError](err)
	switch {
	case errors.Is(err, settings.ErrForbidden):
		l.Allowed = false
	case isMistake:
		if mistake.Field == "cursor" {
			mistake.Field = "form" // no field of the page has the cursor
		}
		v.Mistake, v.status = mistake, http.StatusUnprocessableEntity
	case err != nil:
		return err
	}
	l.Events, l.Next = activity.Events, activity.Next
	return v.render("activity.html", l)
}
