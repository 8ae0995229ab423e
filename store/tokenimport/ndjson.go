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
)

// NDJSON parses input with one JSON object on each line. It skips empty lines, but counts them in the line numbers.
func NDJSON(input io.Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
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
			yield(Line{Number: number + 1, Problem: badLength}, nil)
		case err != nil:
			yield(Line{}, fmt.Errorf("read the input: %w", err))
		}
	}
}

// jsonLine parses one line of NDJSON.
func jsonLine(number int, text []byte) Line {
	if !utf8.Valid(text) {
		return Line{Number: number, Problem: badEncoding}
	}
	object, err := strictjson.Object(text)
	for name := range object {
		if name != strings.ToLower(name) { // encoding/json would also accept names in upper case
			return Line{Number: number, Problem: badObject}
		}
	}
	var f importFields
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err != nil || decoder.Decode(&f) != nil {
		return Line{Number: number, Problem: badObject}
	}
	if string(f.Attributes) == "null" { // like the other fields, this field counts as absent if it is null
		f.Attributes = nil
	}
	return f.line(number)
}
