package secrets

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// traces maps each substring of 12 characters of a secret to the secret's name. It contains the substrings of every encoding of
// the secret, but not a token's visible prefix. So a search also finds parts of a secret, and reads a text only once.
type traces map[string]string

const traceLength = 12

func (known traces) add(name string, forms ...string) {
	for _, form := range forms {
		for i := range len(form) - traceLength + 1 {
			known[form[i:i+traceLength]] = name
		}
	}
}

func (known traces) addToken(token, visible string) {
	hidden := strings.TrimPrefix(token, visible)
	known.add("the token "+visible+"…", append(encodings([]byte(hidden)), hidden)...)
	known.addDigest(token)
}

func (known traces) addDigest(token string) {
	digest := authz.Secret(token).Digest()
	known.add("a digest", encodings(digest[:])...)
}

// encodings returns the bytes in hex (as in Postgres's bytea), as a list of numbers in the syntax of Go and of JSON, and in base64.
// Base64 has three forms, one for each alignment.
func encodings(b []byte) []string {
	list := fmt.Sprintf("%d", b)
	forms := []string{fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), list, strings.ReplaceAll(list, " ", ",")}
	for begin := range 3 {
		whole := b[begin : len(b)-(len(b)-begin)%3]
		forms = append(forms, base64.StdEncoding.EncodeToString(whole), base64.URLEncoding.EncodeToString(whole))
	}
	return forms
}

// find returns the names of the secrets in a text. Each name is followed by the line that contains the secret.
func (known traces) find(text string) (found []string) {
	for line := range strings.Lines(text) {
		for i := range len(line) - traceLength + 1 {
			if name, ok := known[line[i:i+traceLength]]; ok && !slices.Contains(found, name+": "+line) {
				found = append(found, name+": "+line)
			}
		}
	}
	return found
}
