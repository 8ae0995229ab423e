package registry

import (
	"encoding/json"
	"strings"
)

// TokensQuery returns the query of [Registry.Tokens], for EXPLAIN in tests.
var TokensQuery = tokensQuery

// AttributesSize returns the length of the text that Postgres writes for the attributes.
func AttributesSize(text string) (int, error) {
	var size jsonSize
	err := size.add(json.RawMessage(strings.TrimSpace(text)))
	return int(size), err
}
