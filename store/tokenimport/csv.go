package tokenimport

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"unicode/utf8"
)

// CSV parses CSV (RFC 4180) with a header row. The columns may be in any order.
func CSV(input io.Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		bounded := &boundedReader{r: input}
		buffered := bufio.NewReaderSize(bounded, 64<<10)
		skipByteOrderMark(buffered)
		r := csv.NewReader(buffered)
		r.ReuseRecord = true
		number := 1
		bad := func(reason string) bool { return yield(Line{Number: number, Problem: reason}, nil) }

		header, err := r.Read()
		if err != nil && err != io.EOF && !isParseError(err) && !errors.Is(err, errLineTooLong) {
			yield(Line{}, fmt.Errorf("read the input: %w", err))
			return
		}
		columns := slices.Clone(header)
		if reason := headerProblem(columns); err != nil || reason != "" {
			if err != nil {
				reason = badHeader
			}
			bad(reason)
			return
		}
		for {
			bounded.start = r.InputOffset()
			record, err := r.Read()
			if err == io.EOF {
				return
			}
			var parse *csv.ParseError
			switch {
			case errors.As(err, &parse):
				number = parse.StartLine
				reason := badQuote
				if errors.Is(err, csv.ErrFieldCount) {
					reason = badCount
				}
				if !bad(reason) {
					return
				}
				continue
			case errors.Is(err, errLineTooLong):
				number++
				bad(badLength)
				return
			case err != nil:
				yield(Line{}, fmt.Errorf("read the input: %w", err))
				return
			}
			number, _ = r.FieldPos(0)
			var f importFields
			valid := true
			for i, value := range record {
				f.set(columns[i], value)
				valid = valid && utf8.ValidString(value)
			}
			line := f.line(number)
			if !valid {
				line.Problem = badEncoding
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

func isParseError(err error) bool {
	_, ok := errors.AsType[*csv.ParseError](err)
	return ok
}

// headerProblem returns what is wrong with a header row, or "". It never returns the name of a column: if the header row is missing,
// the first row is a token.
func headerProblem(columns []string) string {
	has := make(map[string]bool, len(columns))
	var f importFields
	for i, name := range columns {
		if !f.set(name, "") {
			return fmt.Sprintf("column %d has an unknown name; %s", i+1, badHeader)
		}
		if has[name] {
			return fmt.Sprintf("column %d is a duplicate", i+1)
		}
		has[name] = true
	}
	if (has["token"] || has["digest"]) && has["name"] && has["scopes"] && (has["workspace"] || has["user"]) {
		return ""
	}
	return badHeaderRow
}

var errLineTooLong = errors.New("a line is too long")

// boundedReader returns [errLineTooLong] when it has read more than [maxImportLine] bytes after start, the start of the current line.
type boundedReader struct {
	r        io.Reader
	start, n int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.n-b.start > maxImportLine {
		return 0, errLineTooLong
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	return n, err
}
