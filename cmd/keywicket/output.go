package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/keywicket/keywicket/internal/columns"
	"github.com/keywicket/keywicket/internal/shell"
)

// print writes data as JSON, or as a table of titles and rows.
func (s *invocation) print(data any, titles []string, rows [][]string) error {
	if s.json {
		encoder := json.NewEncoder(s.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(data)
	}
	return columns.Rows(s.stdout, titles, rows)
}

// printList writes a list as one JSON array, or as a table with one row for each item.
func printList[T any](s *invocation, list []T, titles []string, row func(T) []string) error {
	if list == nil {
		list = []T{}
	}
	if len(list) == 0 && !s.json {
		fmt.Fprintln(s.stderr, "The list is empty.")
	}
	rows := make([][]string, len(list))
	for i, item := range list {
		rows[i] = row(item)
	}
	return s.print(list, titles, rows)
}

// printOne writes one object as JSON, or as one line for each field that is not empty.
func printOne(s *invocation, object any, fields ...[2]string) error {
	if s.json {
		return s.print(object, nil, nil)
	}
	return columns.Fields(s.stdout, fields...)
}

// commandLine returns a command with the flags whose values are not empty.
func commandLine(command string, flags [][2]string) string {
	words := []string{command}
	for _, f := range flags {
		if f[1] != "" {
			words = append(words, f[0], shell.Quote(f[1]))
		}
	}
	return strings.Join(words, " ")
}

// formatTime formats a time in UTC as RFC 3339, or nil as "-".
func formatTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
