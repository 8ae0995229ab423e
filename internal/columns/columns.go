// Package columns writes aligned columns of text.
package columns

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Rows writes a row of titles, and the other rows below it.
func Rows(w io.Writer, titles []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{titles}, rows...) {
		fmt.Fprintln(table, strings.TrimRight(strings.Join(row, "\t"), "\t "))
	}
	return table.Flush()
}

// Fields writes one line for each field that is not empty. A field is a name and a value.
func Fields(w io.Writer, fields ...[2]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", f[0], f[1])
		}
	}
	return table.Flush()
}
