package main

import (
	"encoding/json"
	"time"

	"github.com/keywicket/keywicket/internal/columns"
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

// formatTime formats a time in UTC as RFC 3339, or nil as "-".
func formatTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
