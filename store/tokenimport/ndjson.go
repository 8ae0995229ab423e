package tokenimport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/store"
)

// NDJSON parses one JSON object for each line. Empty lines are skipped, but count for line numbers.
func NDJSON(input io.Reader) iter.Seq2[store.ImportLine, error] {
	return func(yield func(store.ImportLine, error) bool) {
		buffered := bufio.NewReader(input)
		skipByteOrderMark(buffered)
		scanner := bufio.NewScanner(buffered)
		scanner.Buffer(make([]byte, 0, 64<<10), maxImportLine)
		number := 0
		for scanner.Scan() {
			number++
			text := bytes.TrimSpace(scanner.Bytes())
			if len(text) == 0 {
				continue
			}
			if !yield(jsonLine(number, text), nil) {
				return
			}
		}
		switch err := scanner.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(store.ImportLine{Number: number + 1, Bad: badLength}, nil)
		case err != nil:
			yield(store.ImportLine{}, fmt.Errorf("read the input: %w", err))
		}
	}
}

// jsonLine parses one line of NDJSON.
func jsonLine(number int, text []byte) store.ImportLine {
	if !utf8.Valid(text) {
		return store.ImportLine{Number: number, Bad: badEncoding}
	}
	object, err := strictjson.Object(text)
	for name := range object {
		if name != strings.ToLower(name) { // encoding/json matches field names in any case
			return store.ImportLine{Number: number, Bad: badObject}
		}
	}
	var f importFields
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err != nil || decoder.Decode(&f) != nil {
		return store.ImportLine{Number: number, Bad: badObject}
	}
	if string(f.Attributes) == "null" { // null means absent, as for the other fields
		f.Attributes = nil
	}
	return f.line(number)
}
