package tokenimport

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// maxImportLine is the maximum length of a line in bytes. Without this limit, the parser would load the whole input into memory
// if a closing quote is missing.
const maxImportLine = 1 << 20

const (
	importFieldNames = "token, digest, prefix, name, scopes, workspace, user, created_at, expires_at, revoked_at, attributes"

	badHeader    = "a header row with the names of the columns is required: " + importFieldNames
	badHeaderRow = "the header row must contain name, scopes, one of token and digest, and one of workspace and user"
	badQuote     = "a quote is misplaced or not closed"
	badCount     = "the number of fields differs from the number of columns in the header row"
	badLength    = "the line is longer than 1 MiB: the import reads no more lines"
	badObject    = "the line must be one JSON object with the fields " + importFieldNames +
		", each at most once; scopes is an array of strings, attributes is an object, and every other field is a string"
	badEncoding = "the line is not UTF-8"
	badDigest   = "the digest is not 64 hex digits"
)

// importFields are the fields of one line of CSV or NDJSON. For a new column, add a field here and a case in the function set,
// the name to importFieldNames, and the value to the function line. In import.go, add a field to Line, a column to the
// temporary table, and the column to COPY and INSERT. Error messages never quote the line, because the line may contain a
// secret.
type importFields struct {
	Token     string   `json:"token"`
	Digest    string   `json:"digest"`
	Prefix    string   `json:"prefix"`
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	Workspace string   `json:"workspace"`
	User      string   `json:"user"`
	CreatedAt string   `json:"created_at"`
	ExpiresAt string   `json:"expires_at"`
	RevokedAt string   `json:"revoked_at"`
	// The attributes are JSON in NDJSON and in CSV.
	Attributes json.RawMessage `json:"attributes"`
}

// set assigns the value of a column. It reports whether the column exists.
func (f *importFields) set(column, value string) bool {
	switch column {
	case "token":
		f.Token = value
	case "digest":
		f.Digest = value
	case "prefix":
		f.Prefix = value
	case "name":
		f.Name = value
	case "scopes":
		f.Scopes = strings.Fields(value)
	case "workspace":
		f.Workspace = value
	case "user":
		f.User = value
	case "created_at":
		f.CreatedAt = value
	case "expires_at":
		f.ExpiresAt = value
	case "revoked_at":
		f.RevokedAt = value
	case "attributes":
		f.Attributes = json.RawMessage(value)
	default:
		return false
	}
	return true
}

// line converts the fields to a Line. If a field is invalid, the result's Problem describes the mistake.
func (f *importFields) line(number int) Line {
	line := Line{
		Number: number, Key: authz.Secret(f.Token), Prefix: f.Prefix, Name: f.Name, Scopes: f.Scopes,
		Workspace: f.Workspace, User: f.User, Attributes: authz.Attributes(f.Attributes),
	}
	if f.Digest != "" {
		line.Digest = new(authz.Digest)
		if n, err := hex.Decode(line.Digest[:], []byte(f.Digest[:min(len(f.Digest), 2*len(line.Digest))])); err != nil ||
			2*n != len(f.Digest) || n != len(line.Digest) {
			line.Problem = badDigest
		}
	}
	for _, t := range []struct {
		name, text string
		to         **time.Time
	}{
		{"created_at", f.CreatedAt, &line.CreatedAt},
		{"expires_at", f.ExpiresAt, &line.ExpiresAt},
		{"revoked_at", f.RevokedAt, &line.RevokedAt},
	} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if year := at.UTC().Year(); err != nil || year < 1 || year > 9999 { // RFC 3339 allows only these years, and the stored time is in UTC
			line.Problem = t.name + " is not an RFC 3339 time, such as 2030-01-31T12:00:00Z"
			continue
		}
		*t.to = &at
	}
	return line
}

// skipByteOrderMark skips the byte order mark that spreadsheets write at the start of CSV.
func skipByteOrderMark(r *bufio.Reader) {
	if mark, _ := r.Peek(3); string(mark) == "\uFEFF" {
		_, _ = r.Discard(3)
	}
}
