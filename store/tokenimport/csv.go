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
		yieldProblem := func(reason string) bool { return yield(Line{Number: number, Problem: reason}, nil) }

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
			yieldProblem(reason)
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
				if !yieldProblem(reason) {
					return
				}
				continue
			case errors.Is(err, errLineTooLong):
				number++
				yieldProblem(badLength)
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

// headerProblem describes an error in a header row, or returns "". The description never contains the name of a column, because
// without a header row, the first row contains a token.
func headerProblem(columns []string) string {
	columnSet := make(map[string]bool, len(columns))
	var f importFields
	for i, name := range columns {
		if !f.set(name, "") {
			return fmt.Sprintf("column %d has an unknown name; %s", i+1, badHeader)
		}
		if columnSet[name] {
			return fmt.Sprintf("column %d is a duplicate", i+1)
		}
		columnSet[name] = true
	}
	if (columnSet["token"] || columnSet["digest"]) && columnSet["name"] && columnSet["scopes"] && (columnSet["workspace"] || columnSet["user"]) {
		return ""
	}
	return badHeaderRow
}

var errLineTooLong = errors.New("a line is too long")

// boundedReader returns [errLineTooLong] after it has read more than [maxImportLine] bytes of the current line. The current line
// begins at the offset in the field `start`.
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
