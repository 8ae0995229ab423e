package pages

import (
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/database"
)

// The texts of the pages are in the templates. This file has the texts that depend on a decision of Go code.

// These are errors in fields of forms. The package settings has more of them.
var (
	errNoDate     = &settings.FieldError{Field: "expires_at", Text: "Choose a date."}
	errNoExpiry   = &settings.FieldError{Field: "expires_at", Text: "Choose when it expires."}
	errNoOverlap  = &settings.FieldError{Field: "overlap", Text: "Choose when the old secret ends."}
	errIncomplete = &settings.FieldError{Field: "form", Text: "The form was incomplete. Check it, and send it again."}
	errUnsure     = &settings.FieldError{Field: "confirmed", Text: "Confirm that you want to give full access, or choose other scopes."}
	errMayNot     = database.NewRefusal(settings.ErrForbidden, "You may not manage these here.")
)

// functions are the functions of the templates.
var functions = template.FuncMap{
	"title":       title,
	"date":        func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
	"exact":       func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
	"iso":         func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"ago":         func(t time.Time) string { return ago(time.Since(t)) },
	"count":       count,
	"environment": environment,
	"deref":       func(t *time.Time) time.Time { return *t },
	"fields":      func(pairs ...any) map[string]any { return fields(pairs) },
}

// title returns the text with a capital letter at its beginning.
func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// ago describes how long ago something was. The time of a token's last use may be two minutes too early.
func ago(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 5*time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int64(d/time.Minute), "minute") + " ago"
	case d < 2*day:
		return count(int64(d/time.Hour), "hour") + " ago"
	}
	return count(int64(d/day), "day") + " ago"
}

// count returns a number with its noun, such as 1 request or 1,204 requests.
func count(n int64, noun string) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if n != 1 {
		noun += "s"
	}
	return digits + " " + noun
}

// environment is the word for an environment, as in VelaFlows' document.
func environment(e authz.Environment) string {
	switch e {
	case authz.Live:
		return "Production"
	case authz.Sandbox:
		return "Sandbox"
	}
	return string(e)
}

// fields returns names and values as a map, for a template with several parameters.
func fields(pairs []any) map[string]any {
	m := make(map[string]any)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}
