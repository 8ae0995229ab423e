package console

// Query returns the query of the first page of the filter's first walk, or of another walk, for EXPLAIN in tests.
func (f Filter) Query(walk string) (string, []any) {
	after := position{}
	if f.After != "" {
		var err error
		if after, err = parseCursor(f.After); err != nil {
			panic(err)
		}
	}
	return f.query(walk, after, f.Limit+1, false)
}

// MaxRead is the maximum number of tokens that a page reads.
const MaxRead = maxRead

// Cursor returns the cursor after a token.
func Cursor(walk, key, id string) string { return position{walk, key, id}.cursor() }
