// Package strictjson reads JSON objects from untrusted sources. A duplicate name is an error, because one parser may use the first
// value, and another parser the last value.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Object reads one object. Any text after the object is an error. Names are case-sensitive. Bytes that are not UTF-8 are an error,
// whereas encoding/json would replace them. The errors do not quote the text.
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
			return nil, errors.New("it is not JSON")
		}
		if _, repeated := object[name]; repeated {
			return nil, fmt.Errorf("field %d occurs twice", len(object)+1)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, errors.New("it is not JSON")
		}
		object[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	const space = " \t\r\n" // RFC 8259, section 2; Go counts more characters as white space
	if len(bytes.Trim(text[decoder.InputOffset():], space)) > 0 {
		return nil, errors.New("the line continues after the object")
	}
	return object, nil
}
