package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/tokenimport"
)

type tokenImport struct {
	Prefix string `help:"Prefix of the kind of token. All tokens of the input must be of this kind." required:"" placeholder:"PREFIX"`
	API    string `help:"The API. Required if several APIs have this prefix." name:"api" placeholder:"NAME"`
	Format string `help:"Format of the input: csv or ndjson." enum:"csv,ndjson" default:"csv" placeholder:"FORMAT"`
}

func (*tokenImport) Help() string {
	return `Reads a product's existing tokens from standard input, and imports all of them or none. CSV starts with a row of
column names. NDJSON has one object on each line. The columns or fields, in any order:

  token                 the whole key; only its SHA-256 leaves this process; or instead of token:
  digest, prefix        the SHA-256 of the whole key in hex, and the visible prefix of the key
  name                  the name of the token
  scopes                CSV: separated by spaces; NDJSON: an array
  workspace | user      the owner: a workspace's id or slug, or a user's id or email
  created_at, expires_at, revoked_at      RFC 3339 times; optional
  attributes            a JSON object for policies, in CSV as text; optional`
}

func (c *tokenImport) Run(s *invocation, r *registry.Registry, cfg config) error {
	api, format, err := findFormat(cfg, c.Prefix, c.API)
	if err != nil {
		return err
	}
	valid, _, err := scopesFor(cfg, api, format.Kind)
	if err != nil {
		return err
	}
	stdin := &countingReader{r: interruptible(s.ctx, os.Stdin)}
	bar := newProgress(terminal(s.stderr), size(os.Stdin), func() int64 { return stdin.n })
	parse := csvLines
	if c.Format == "ndjson" {
		parse = ndjsonLines
	}
	in := &importer{valid: valid, progress: bar}
	n, err := tokenimport.Store(s.ctx, r, tokenimport.Import{Format: format, API: api, Lines: in.lines(parse(stdin))})
	bar.end()
	if refused, ok := errors.AsType[*tokenimport.Error](err); ok {
		for _, l := range refused.Lines {
			fmt.Fprintf(s.stderr, "line %d: %s\n", l.Number, l.Reason)
		}
		if more := refused.Bad - len(refused.Lines); more > 0 {
			fmt.Fprintf(s.stderr, "and %d more\n", more)
		}
		if in.badScopes {
			fmt.Fprintf(s.stderr, "scopes are %s\n", strings.Join(valid, ", "))
		}
	}
	if err != nil {
		return err
	}
	return printOne(s, struct {
		Imported int `json:"imported"`
	}{n}, [2]string{"imported", strconv.Itoa(n)})
}

// importer validates the scopes, which the store does not know, and shows the progress.
type importer struct {
	valid     []string
	badScopes bool
	progress  *progress
}

// lines returns the parsed lines with validated scopes.
func (in *importer) lines(parsed iter.Seq2[tokenimport.Line, error]) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
		for line, err := range parsed {
			if err == nil && line.Bad == "" {
				line.Scopes, line.Bad = in.scopes(line.Scopes)
			}
			in.progress.row()
			if !yield(line, err) {
				return
			}
		}
		in.progress.storing()
	}
}

// scopes returns the scopes without duplicates, or the reason why they are invalid.
func (in *importer) scopes(named []string) ([]string, string) {
	if len(named) == 0 {
		in.badScopes = true
		return nil, "it has no scopes"
	}
	scopes := make([]string, 0, len(named))
	for i, scope := range named {
		if !slices.Contains(in.valid, scope) {
			in.badScopes = true
			return nil, fmt.Sprintf("scope %d is not a scope for this kind of token", i+1)
		}
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes, ""
}

// maxImportLine is the maximum length of a line in bytes. Without it, an unclosed quote would load all of the input into memory.
const maxImportLine = 1 << 20

const (
	importFieldNames = "token, digest, prefix, name, scopes, workspace, user, created_at, expires_at, revoked_at, attributes"

	badHeader    = "a header row with the names of the columns is required: " + importFieldNames
	badHeaderRow = "the header row needs the columns token or digest, name, scopes, and workspace or user"
	badQuote     = "a quote is misplaced or not closed"
	badCount     = "the number of fields differs from the header row"
	badLength    = "the line is longer than 1 MiB: the rest of the input is not read"
	badObject    = "the line must be one JSON object with the fields " + importFieldNames +
		", each at most once; scopes is an array of strings, attributes an object, and every other field a string"
	badEncoding = "the line is not UTF-8"
	badDigest   = "the digest is not 64 hex digits"
)

// importFields is a line of CSV or NDJSON. Error messages never contain any text of the line, because it may be a secret.
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
	// Attributes are JSON in both formats.
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

// line returns the line for the store. Its field Bad says what is invalid.
func (f *importFields) line(number int) tokenimport.Line {
	line := tokenimport.Line{
		Number: number, Key: authz.Secret(f.Token), Prefix: f.Prefix, Name: f.Name, Scopes: f.Scopes,
		Workspace: f.Workspace, User: f.User, Attributes: authz.Attributes(f.Attributes),
	}
	if f.Digest != "" {
		line.Digest = new(authz.Digest)
		if n, err := hex.Decode(line.Digest[:], []byte(f.Digest[:min(len(f.Digest), 2*len(line.Digest))])); err != nil ||
			2*n != len(f.Digest) || n != len(line.Digest) {
			line.Bad = badDigest
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
		if year := at.UTC().Year(); err != nil || year < 1 || year > 9999 { // in UTC, other years could not be printed as RFC 3339
			line.Bad = t.name + " is not an RFC 3339 time, such as 2030-01-31T12:00:00Z"
			continue
		}
		*t.to = &at
	}
	return line
}

// csvLines parses CSV (RFC 4180) with a header row. The columns may be in any order.
func csvLines(input io.Reader) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
		bounded := &boundedReader{r: input}
		buffered := bufio.NewReaderSize(bounded, 64<<10)
		skipByteOrderMark(buffered)
		r := csv.NewReader(buffered)
		r.ReuseRecord = true
		number := 1
		bad := func(reason string) bool { return yield(tokenimport.Line{Number: number, Bad: reason}, nil) }

		header, err := r.Read()
		if err != nil && err != io.EOF && !isParseError(err) && !errors.Is(err, errLineTooLong) {
			yield(tokenimport.Line{}, fmt.Errorf("read the input: %w", err))
			return
		}
		columns := slices.Clone(header)
		if reason := headerProblem(columns); err != nil || reason != "" {
			if err != nil {
				reason = badHeader
			}
			bad(reason)
			return
		}
		for {
			bounded.start = r.InputOffset()
			record, err := r.Read()
			if err == io.EOF {
				return
			}
			var parse *csv.ParseError
			switch {
			case errors.As(err, &parse):
				number = parse.StartLine
				reason := badQuote
				if errors.Is(err, csv.ErrFieldCount) {
					reason = badCount
				}
				if !bad(reason) {
					return
				}
				continue
			case errors.Is(err, errLineTooLong):
				number++
				bad(badLength)
				return
			case err != nil:
				yield(tokenimport.Line{}, fmt.Errorf("read the input: %w", err))
				return
			}
			number, _ = r.FieldPos(0)
			var f importFields
			valid := true
			for i, value := range record {
				f.set(columns[i], value)
				valid = valid && utf8.ValidString(value)
			}
			line := f.line(number)
			if !valid {
				line.Bad = badEncoding
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

func isParseError(err error) bool {
	_, ok := errors.AsType[*csv.ParseError](err)
	return ok
}

// headerProblem returns what is wrong with a header row, or "". It never returns the name of a column: if the header row is missing,
// the first row is a token.
func headerProblem(columns []string) string {
	has := make(map[string]bool, len(columns))
	var f importFields
	for i, name := range columns {
		if !f.set(name, "") {
			return fmt.Sprintf("column %d has an unknown name; %s", i+1, badHeader)
		}
		if has[name] {
			return fmt.Sprintf("column %d is a duplicate", i+1)
		}
		has[name] = true
	}
	if (has["token"] || has["digest"]) && has["name"] && has["scopes"] && (has["workspace"] || has["user"]) {
		return ""
	}
	return badHeaderRow
}

// ndjsonLines parses one JSON object for each line. Empty lines are skipped, but count for line numbers.
func ndjsonLines(input io.Reader) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
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
			yield(tokenimport.Line{Number: number + 1, Bad: badLength}, nil)
		case err != nil:
			yield(tokenimport.Line{}, fmt.Errorf("read the input: %w", err))
		}
	}
}

// jsonLine parses one line of NDJSON.
func jsonLine(number int, text []byte) tokenimport.Line {
	if !utf8.Valid(text) {
		return tokenimport.Line{Number: number, Bad: badEncoding}
	}
	object, err := strictjson.Object(text)
	for name := range object {
		if name != strings.ToLower(name) { // encoding/json matches field names in any case
			return tokenimport.Line{Number: number, Bad: badObject}
		}
	}
	var f importFields
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err != nil || decoder.Decode(&f) != nil {
		return tokenimport.Line{Number: number, Bad: badObject}
	}
	if string(f.Attributes) == "null" { // null means absent, as for the other fields
		f.Attributes = nil
	}
	return f.line(number)
}

// skipByteOrderMark skips the byte order mark that spreadsheets write at the start of CSV.
func skipByteOrderMark(r *bufio.Reader) {
	if mark, _ := r.Peek(3); string(mark) == "\uFEFF" {
		_, _ = r.Discard(3)
	}
}

var errLineTooLong = errors.New("a line is too long")

// boundedReader returns [errLineTooLong] when it has read more than [maxImportLine] bytes after start, the start of the current line.
type boundedReader struct {
	r        io.Reader
	start, n int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.n-b.start > maxImportLine {
		return 0, errLineTooLong
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	return n, err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// interruptible returns a reader whose reads fail when the context ends. A read of standard input does not do so. The goroutine that
// reads r may stay blocked until the process ends.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	return out
}

// terminal returns w if it is a terminal, or nil.
func terminal(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return f
}

// size returns the size of a regular file in bytes. For anything else, such as a pipe, it returns 0.
func size(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// progress is a progress line on a terminal.
type progress struct {
	w              io.Writer // nil: not a terminal, nothing is drawn
	size           int64     // size of the input in bytes; 0: unknown
	read           func() int64
	now            func() time.Time
	started, drawn time.Time
	rows           int
}

func newProgress(w io.Writer, size int64, read func() int64) *progress {
	return &progress{w: w, size: size, read: read, now: time.Now}
}

// row counts one row. It draws the line at most ten times per second.
func (p *progress) row() {
	if p.w == nil {
		return
	}
	p.rows++
	now := p.now()
	if p.started.IsZero() {
		p.started, p.drawn = now, now
	}
	if now.Sub(p.drawn) >= 100*time.Millisecond {
		p.drawn = now
		p.draw(p.bar() + p.count())
	}
}

// storing draws the state after the input is read, while the database checks and stores the rows.
func (p *progress) storing() {
	if p.w != nil {
		p.draw(p.count() + "; checking and storing")
	}
}

// end clears the line for the next output.
func (p *progress) end() {
	if p.w != nil {
		p.draw("")
	}
}

func (p *progress) bar() string {
	if p.size == 0 {
		return ""
	}
	const width = 20
	part := min(float64(p.read())/float64(p.size), 1)
	done := int(part * width)
	return fmt.Sprintf("[%s%s] %3.0f %%  ", strings.Repeat("=", done), strings.Repeat(" ", width-done), 100*part)
}

func (p *progress) count() string {
	rate := 0.0
	if took := p.now().Sub(p.started); p.rows > 0 && took > 0 {
		rate = float64(p.rows) / took.Seconds()
	}
	return fmt.Sprintf("%d rows, %.0f rows/s", p.rows, rate)
}

// draw clears the line and writes text.
func (p *progress) draw(text string) { fmt.Fprintf(p.w, "\r\x1b[K%s", text) }
