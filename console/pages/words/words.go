// Package words formats values for people, in English: times, numbers and names.
package words

import (
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Functions are the functions of the templates.
var Functions = template.FuncMap{
	"title":       title,
	"date":        func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
	"exact":       func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
	"iso":         func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"ago":         func(t time.Time) string { return ago(time.Since(t)) },
	"count":       Count,
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
		return Count(int64(d/time.Minute), "minute") + " ago"
	case d < 2*day:
		return Count(int64(d/time.Hour), "hour") + " ago"
	}
	return Count(int64(d/day), "day") + " ago"
}

// Count returns a number with its noun, such as 1 request or 1,204 requests.
func Count(n int64, noun string) string {
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
