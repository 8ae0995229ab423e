package attributes

import (
	"encoding/json"
	"strings"
)

// Size returns the length of the text that Postgres writes for the attributes.
func Size(text string) (int, error) {
	var s textSize
	err := s.add(json.RawMessage(strings.TrimSpace(text)))
	return int(s), err
}
