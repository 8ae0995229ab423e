package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
)

// maxAttributes is the most that the database takes, in bytes of the text that Postgres makes of a jsonb (migration 00012).
const maxAttributes = 4096

var (
	errNoObject = errors.New(`give one JSON object, such as '{"plan":"pro"}'`)
	errTooLong  = fmt.Errorf("give at most %d bytes, counted with a blank behind each comma and colon, as Postgres writes JSON", maxAttributes)
	errBadText  = errors.New(`a text in it has \u0000, \ufffd or half of a character: leave it out`)
)

// ParseAttributes reads one JSON object that the database takes, in which no object has a name twice. An empty text is {}. The
// errors quote nothing. All that Postgres would refuse is refused here, because Postgres logs what it refuses.
func ParseAttributes(text string) (authz.Attributes, error) {
	text = strings.Trim(text, " \t\r\n")
	switch {
	case text == "":
		return "", nil
	case len(text) > 16*maxAttributes: // so much white space, or so many escapes, is a mistake
		return "", errTooLong
	case text[0] != '{':
		return "", errNoObject
	}
	var size jsonSize
	if err := size.add(json.RawMessage(text)); err != nil {
		return "", err
	}
	return authz.Attributes(text), nil
}

// jsonSize is the length of the text that Postgres makes of a jsonb. It fails as soon as it is too long.
type jsonSize int

func (s *jsonSize) add(value json.RawMessage) error {
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

func (s *jsonSize) addObject(value json.RawMessage) error {
	object, err := strictjson.Object(value)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoObject, err)
	}
	// Before what is in it, so that the size bounds the depth.
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

func (s *jsonSize) addArray(value json.RawMessage) error {
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

// addText refuses U+FFFD, because encoding/json makes one of half a surrogate pair, which Postgres refuses.
func (s *jsonSize) addText(text string) error {
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

// addNumber writes no exponent, as Postgres.
func (s *jsonSize) addNumber(text string) error {
	text, negative := strings.CutPrefix(text, "-")
	mantissa, power, _ := strings.Cut(strings.ToLower(text), "e")
	exponent := 0
	if power != "" {
		var err error
		if exponent, err = strconv.Atoi(power); err != nil || max(exponent, -exponent) > 2*maxAttributes {
			return errTooLong
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	size := 1
	if digits := len(strings.TrimLeft(whole+fraction, "0")); digits > 0 {
		size = max(digits-len(fraction)+exponent, 1)
		if negative { // Postgres has no -0
			size += len("-")
		}
	}
	if decimals := len(fraction) - exponent; decimals > 0 {
		size += len(".") + decimals
	}
	return s.grow(size)
}

func (s *jsonSize) grow(n int) error {
	*s += jsonSize(n)
	if *s > maxAttributes {
		return errTooLong
	}
	return nil
}

// setAttributes replaces those of a row. If there is no such row, it does nothing.
func (r *Registry) setAttributes(ctx context.Context, table, id string, a authz.Attributes) error {
	text, err := checked(a)
	if err != nil {
		return err
	}
	var changed string
	err = r.db.GetContext(ctx, &changed, `UPDATE keywicket.`+table+` SET attributes = $2 WHERE id = $1 RETURNING id`, id, text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return explain(err, "set the attributes", map[string]*refusal{table + "_attributes_form": errAttributes})
	}
	return asked(changed == id, "set the attributes")
}

// checked are attributes for the database.
func checked(a authz.Attributes) (string, error) {
	a, err := ParseAttributes(string(a))
	if err != nil {
		return "", refuse(ErrInvalid, "attributes: %v", err)
	}
	return a.JSON(), nil
}

// errAttributes is for what only the database finds wrong.
var errAttributes = refuse(ErrInvalid, "attributes: %v; %v", errNoObject, errTooLong)
