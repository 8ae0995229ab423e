package invocation

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/keywicket/keywicket/internal/columns"
	"github.com/keywicket/keywicket/internal/shell"
)

// Print writes data as JSON, or as a table of titles and rows.
func (s *Invocation) Print(data any, titles []string, rows [][]string) error {
	if s.JSON {
		encoder := json.NewEncoder(s.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(data)
	}
	return columns.Rows(s.Stdout, titles, rows)
}

// PrintList writes a list as one JSON array, or as a table with one row for each item.
func PrintList[T any](s *Invocation, list []T, titles []string, row func(T) []string) error {
	if list == nil {
		list = []T{}
	}
	if len(list) == 0 && !s.JSON {
		fmt.Fprintln(s.Stderr, "The list is empty.")
	}
	rows := make([][]string, len(list))
	for i, item := range list {
		rows[i] = row(item)
	}
	return s.Print(list, titles, rows)
}

// PrintOne writes one object as JSON, or as one line for each field that is not empty.
func PrintOne(s *Invocation, object any, fields ...[2]string) error {
	if s.JSON {
		return s.Print(object, nil, nil)
	}
	return columns.Fields(s.Stdout, fields...)
}

// CommandLine returns a command with the flags whose values are not empty. If the command is empty, the text starts with a space.
func CommandLine(command string, flags [][2]string) string {
	words := []string{command}
	for _, f := range flags {
		if f[1] != "" {
			words = append(words, f[0], shell.Quote(f[1]))
		}
	}
	return strings.Join(words, " ")
}

// FormatTime formats a time in UTC as RFC 3339, or nil as "-".
func FormatTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
