package settings

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
)

// shown are the columns that a user understands, with their names on the pages.
var shown = []struct{ column, name string }{
	{"name", "Name"}, {"slug", "Slug"}, {"email", "Email"}, {"role", "Role"}, {"scopes", "Scopes"}, {"redirect_uris", "Redirect URIs"},
	{"confidential", "Confidential"}, {"development", "In development"}, {"expires_at", "Expires"}, {"banned_until", "Banned until"},
	{"mfa_enrolled", "Second factor"}, {"leaver_rule", "Tokens of people who leave"}, {"revoked_reason", "Reason"},
}

// describe returns the entry as a user reads it.
func describe(e auditlog.Entry, n console.Names) (Event, error) {
	before, err := columns(e.Before)
	if err != nil {
		return Event{}, err
	}
	after, err := columns(e.After)
	if err != nil {
		return Event{}, err
	}
	event := Event{
		ID: e.ID, At: e.At, Action: e.Action, ObjectKind: e.ObjectKind, ObjectID: value(e.ObjectID),
		Actor: actor(e, n), Source: strings.TrimSuffix(value(e.Source), "/32"), RequestID: value(e.RequestID),
	}
	event.Text = visible(event.Actor + " " + deed(e, n, before, after) + ".")
	for _, s := range shown {
		if old, new := before[s.column], after[s.column]; old != new {
			event.Changes = append(event.Changes, Change{s.name, visible(old), visible(new)})
		}
	}
	return event, nil
}

// actor names who caused the change. A change without an actor was made with a database login, so by the operator.
func actor(e auditlog.Entry, n console.Names) string {
	id := value(e.ActorID)
	switch kind := value(e.ActorKind); kind {
	case database.ActorUser:
		return user(id, n)
	case database.ActorToken:
		return "The " + token(id, "", n)
	case database.ActorApp:
		return "The app " + cmp.Or(n.Apps[id], id)
	case "":
		return "The operator"
	default:
		return "The " + kind + " " + id
	}
}

func user(id string, n console.Names) string {
	if email := n.Users[id]; email != "" {
		return email
	}
	return "A deleted user"
}

// token names a token by its name and its visible prefix.
func token(id, name string, n console.Names) string {
	t, ok := n.Tokens[id]
	switch {
	case !ok && name == "":
		return "deleted token"
	case !ok:
		return "token " + name
	case authz.Kind(t.Kind) == authz.KindWorkspaceToken:
		return fmt.Sprintf("token %s (%s…)", t.Name, t.Prefix)
	}
	return fmt.Sprintf("key %s (%s…)", t.Name, t.Prefix)
}

var verbs = map[string]string{
	"create": "created", "change": "changed", "rotate": "replaced the secret of", "revoke": "revoked", "restore": "restored", "delete": "deleted",
}

// deed says what happened, from the verb on.
func deed(e auditlog.Entry, n console.Names, before, after map[string]string) string {
	verb := cmp.Or(verbs[e.Action], e.Action)
	name := value(e.ObjectName)
	switch e.Action {
	case "truncate":
		return "deleted all objects of the kind " + e.ObjectKind
	case "import":
		return fmt.Sprintf("imported %d tokens", e.Objects)
	}
	switch e.ObjectKind {
	case "token":
		if e.Action == "change" && before["expires_at"] != after["expires_at"] && after["expires_at"] != "" {
			return "set the " + token(value(e.ObjectID), name, n) + " to expire at " + after["expires_at"] // usually a rotation
		}
		return verb + " the " + token(value(e.ObjectID), name, n)
	case "app":
		switch e.Action {
		case "create":
			verb = "registered"
		case "revoke":
			verb = "deleted"
		}
		return verb + " the app " + name
	case "member":
		who, where := user(value(e.UserID), n), " the workspace "+cmp.Or(n.Workspaces[value(e.WorkspaceID)], value(e.WorkspaceID))
		switch e.Action {
		case "create":
			return "added " + who + " to" + where + " as " + after["role"]
		case "delete":
			return "removed " + who + " from" + where
		}
		return "changed the role of " + who + " in" + where + " from " + before["role"] + " to " + after["role"]
	case "grant", "grant_workspace":
		id, _, inWorkspace := strings.Cut(value(e.ObjectID), "/")
		app := "the app " + cmp.Or(n.Grants[id], "that was deleted")
		switch {
		case inWorkspace && e.Action == "create":
			return "gave " + app + " access to the workspace"
		case inWorkspace:
			return "ended the access of " + app + " to the workspace"
		case e.Action == "create":
			return "authorized " + app
		case e.Action == "revoke":
			return "ended the access of " + app
		}
		return verb + " the access of " + app
	case "session":
		return "ended a session of " + user(value(e.UserID), n)
	case "user":
		return verb + " the account " + name
	case "workspace":
		return verb + " the workspace " + name
	}
	return verb + " " + e.ObjectKind + " " + name
}

// columns returns the values of the shown columns as text.
func columns(row *json.RawMessage) (map[string]string, error) {
	if row == nil {
		return nil, nil
	}
	var values map[string]any
	if err := json.Unmarshal(*row, &values); err != nil {
		return nil, err
	}
	texts := make(map[string]string)
	for _, s := range shown {
		texts[s.column] = text(values[s.column])
		if at, err := time.Parse(time.RFC3339, texts[s.column]); err == nil {
			texts[s.column] = at.UTC().Format("2006-01-02 15:04 UTC")
		}
	}
	return texts, nil
}

func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, text(item))
		}
		return strings.Join(items, " ")
	default:
		return fmt.Sprint(v)
	}
}

// visible replaces characters that have no glyph. Such a character in a name, for example one that changes the direction of the text,
// could change how a page shows the rest of the sentence.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
