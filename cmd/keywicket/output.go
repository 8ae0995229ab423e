package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes data as JSON, or as a table of titles and rows.
func (s *invocation) print(data any, titles []string, rows [][]string) error {
	if s.json {
		encoder := json.NewEncoder(s.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(data)
	}
	table := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{titles}, rows...) {
		fmt.Fprintln(table, strings.TrimRight(strings.Join(row, "\t"), "\t "))
	}
	return table.Flush()
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
	table := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", f[0], f[1])
		}
	}
	return table.Flush()
}

// when formats a time in UTC as RFC 3339, or nil as "-".
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
