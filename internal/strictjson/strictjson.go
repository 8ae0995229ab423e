// Package strictjson reads JSON objects that strangers write: a name that is there twice is an error, because two readers
// may take each another one of the two.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Object reads one object, and nothing behind it. Names are taken as they are written; what encoding/json would replace,
// bytes that are not UTF-8, is an error. The errors quote nothing.
func Object(text []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if brace, err := decoder.Token(); err != nil || brace != json.Delim('{') {
		return nil, errors.New("it is not an object")
	}
	object := make(map[string]json.RawMessage)
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errors.New("it is no JSON")
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("field %d is there for the second time", len(object)+1)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, errors.New("it is no JSON")
		}
		object[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("it is no JSON")
	}
	const space = " \t\r\n" // RFC 8259, section 2; Go knows more
	if len(bytes.Trim(text[decoder.InputOffset():], space)) > 0 {
		return nil, errors.New("there is something behind the object")
	}
	return object, nil
}
