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

// Rows that do not answer exactly the look-ups of the query are an error.
func TestRowsThatAreNotRead(t *testing.T) {
	const place, environment, scopes, lifetime = 1, 5, 7, 11 // columns
	row := []driver.Value{int64(7), int64(1), "", "t1", "workspace_key", "live", "", []byte(`{a}`), "w1", "acme", "", []byte("1.5"), "", "", ""}
	asked := []authz.Lookup{{Kind: authz.KindWorkspaceKey}}
	answers, started, err := readAnswers(&rows{row}, asked)
	if f := answers[0].Found; err != nil || started != 7 || f.Principal.ID != "t1" || !slices.Equal(f.Principal.Scopes, []string{"a"}) || !answers[0].Expires {
		t.Fatalf("%+v %d %v", answers, started, err)
	}
	with := func(column int, value driver.Value) []driver.Value {
		changed := slices.Clone(row)
		changed[column] = value
		return changed
	}
	for name, all := range map[string]rows{
		"a column too few":          {row[:len(row)-1]},
		"no lifetime and no more":   {row[:lifetime]},
		"a column too many":         {append(slices.Clone(row), "")},
		"NULL for a text":           {with(environment, nil)},
		"a text for a number":       {with(place, "1")},
		"scopes that are no array":  {with(scopes, []byte("a"))},
		"a lifetime that is none":   {with(lifetime, []byte("soon"))},
		"an answer to no question":  {with(place, int64(2))},
		"a place before the first":  {with(place, int64(0))},
		"two answers to a question": {row, row},
	} {
		if got, _, err := readAnswers(&all, asked); !errors.Is(err, ErrUnreadable) || got != nil {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	if _, _, err := readAnswers(&rows{row}, append(asked, asked...)); !errors.Is(err, ErrUnreadable) {
		t.Errorf("no answer to the second question: %v", err)
	}
}
