// Package attributes parses the attributes of tokens, workspaces and users, before they are sent to the database.
package attributes

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/store/database"
)

// maxSize is the maximum size of attributes in bytes. The database counts the bytes of the text form of the jsonb (migration
// 00012).
const maxSize = 4096

var (
	errNoObject = errors.New(`give one JSON object, such as '{"plan":"pro"}'`)
	errTooLong  = fmt.Errorf("give at most %d bytes, counted with a space after each comma and colon, as Postgres writes JSON", maxSize)
	errBadText  = errors.New(`a string has \u0000, \ufffd or half of a character (an unpaired surrogate): remove it`)
)

// Parse returns the attributes in the text, which is one JSON object. An empty text means no attributes. Parse rejects an object in
// which a name occurs twice. It also rejects every value that Postgres would reject, because Postgres logs rejected values. The errors
// contain no part of the text.
func Parse(text string) (authz.Attributes, error) {
	text = strings.Trim(text, " \t\r\n")
	switch {
	case text == "":
		return "", nil
	case len(text) > 16*maxSize: // a valid text may be longer than maxSize because of white space and escapes, but hardly 16 times as long
		return "", errTooLong
	case text[0] != '{':
		return "", errNoObject
	}
	var s textSize
	if err := s.add(json.RawMessage(text)); err != nil {
		return "", err
	}
	return authz.Attributes(text), nil
}

// textSize is the length in bytes of the text that Postgres writes for a jsonb. Its methods return an error as soon as the length
// exceeds maxSize.
type textSize int

func (s *textSize) add(value json.RawMessage) error {
	switch value[0] {
	case '{':
		return s.addObject(value)
	case '[':
		return s.addArray(value)
	case '"':
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return errNoObject
		}
		return s.addText(text)
	case 't', 'f', 'n':
		return s.grow(len(value))
	}
	return s.addNumber(string(value))
}

func (s *textSize) addObject(value json.RawMessage) error {
	object, err := strictjson.Object(value)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoObject, err)
	}
	// Count the braces before the fields, so that the maximum size also limits the depth of the recursion.
	if err := s.grow(len("{}") + len(", ")*max(len(object)-1, 0)); err != nil {
		return err
	}
	for name, field := range object {
		err := s.addText(name)
		if err == nil {
			err = s.grow(len(": "))
		}
		if err == nil {
			err = s.add(field)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *textSize) addArray(value json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(value, &list); err != nil {
		return errNoObject
	}
	if err := s.grow(len("[]") + len(", ")*max(len(list)-1, 0)); err != nil {
		return err
	}
	for _, element := range list {
		if err := s.add(element); err != nil {
			return err
		}
	}
	return nil
}

// addText rejects the character U+FFFD, because encoding/json replaces an unpaired surrogate by U+FFFD, and Postgres rejects
// unpaired surrogates.
func (s *textSize) addText(text string) error {
	size := len(`""`)
	for _, r := range text {
		switch {
		case r == 0 || r == utf8.RuneError:
			return errBadText
		case strings.ContainsRune("\"\\\b\f\n\r\t", r):
			size += len(`\n`)
		case r < ' ':
			size += len(`\u0001`)
		default:
			size += utf8.RuneLen(r)
		}
	}
	return s.grow(size)
}

// addNumber counts the characters of the number written without an exponent, because Postgres writes numbers without exponents.
func (s *textSize) addNumber(text string) error {
	text, negative := strings.CutPrefix(text, "-")
	mantissa, power, _ := strings.Cut(strings.ToLower(text), "e")
	exponent := 0
	if power != "" {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil || max(exponent, -exponent) > 2*maxSize {
			return errTooLong
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	size := 1
	if digits := len(strings.TrimLeft(whole+fraction, "0")); digits > 0 {
		size = max(digits-len(fraction)+exponent, 1)
		if negative { // Postgres writes no sign for zero
			size += len("-")
		}
	}
	if decimals := len(fraction) - exponent; decimals > 0 {
		size += len(".") + decimals
	}
	return s.grow(size)
}

func (s *textSize) grow(n int) error {
	*s += textSize(n)
	if *s > maxSize {
		return errTooLong
	}
	return nil
}

// JSON returns the attributes as valid JSON for the database.
func JSON(a authz.Attributes) (string, error) {
	a, err := Parse(string(a))
	if err != nil {
		return "", database.NewRefusal(database.ErrInvalid, "attributes: %v", err)
	}
	return a.JSON(), nil
}

// ErrRefused is the error for attributes that [Parse] accepts but the database rejects.
var ErrRefused = database.NewRefusal(database.ErrInvalid, "attributes: %v; %v", errNoObject, errTooLong)
