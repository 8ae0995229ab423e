package lookup

import (
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// rows is a query's result.
type rows [][]driver.Value

func (r *rows) Columns() []string { return make([]string, len((*r)[0])) }
func (r *rows) Close() error      { return nil }

func (r *rows) Next(values []driver.Value) error {
	if len(*r) == 0 {
		return io.EOF
	}
	copy(values, (*r)[0])
	*r = (*r)[1:]
	return nil
}

// There must be exactly one row for each look-up. If a row is missing or has another form, the result is an error.
func TestUnexpectedRowsAreErrors(t *testing.T) {
	const place, environment, scopes, lifetime = 1, 5, 7, 11 // indexes of columns
	row := []driver.Value{int64(7), int64(1), "", "t1", "workspace_key", "live", "", []byte(`{a}`), "w1", "acme", "", []byte("1.5"), "", "", ""}
	lookups := []authz.Lookup{{Kind: authz.KindWorkspaceKey}}
	answers, started, err := readAnswers(&rows{row}, lookups)
	if f := answers[0].Result; err != nil || started != 7 || f.Principal.ID != "t1" || !slices.Equal(f.Principal.Scopes, []string{"a"}) || !answers[0].Expires {
		t.Fatalf("%+v %d %v", answers, started, err)
	}
	rowWith := func(column int, value driver.Value) []driver.Value {
		changed := slices.Clone(row)
		changed[column] = value
		return changed
	}
	for name, all := range map[string]rows{
		"one column is missing":           {row[:len(row)-1]},
		"four columns are missing":        {row[:lifetime]},
		"one column too many":             {append(slices.Clone(row), "")},
		"NULL as a string":                {rowWith(environment, nil)},
		"a string as a number":            {rowWith(place, "1")},
		"scopes that are not an array":    {rowWith(scopes, []byte("a"))},
		"a lifetime that is not a number": {rowWith(lifetime, []byte("soon"))},
		"an answer to look-up 2 of 1":     {rowWith(place, int64(2))},
		"an answer to look-up 0":          {rowWith(place, int64(0))},
		"two answers to a look-up":        {row, row},
	} {
		if got, _, err := readAnswers(&all, lookups); !errors.Is(err, ErrUnreadable) || got != nil {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	if _, _, err := readAnswers(&rows{row}, append(lookups, lookups...)); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no answer to the second look-up: %v", err)
	}
}
