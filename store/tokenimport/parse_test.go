package tokenimport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

type parser = func(io.Reader) iter.Seq2[Line, error]

func TestImportInputIsStreamed(t *testing.T) {
	for name, parse := range map[string]struct {
		lines parser
		head  string
		line  string
	}{
		"csv":    {CSV, "token,name,scopes,workspace\n", "sk_live_0123456789abcdef,%s,inbox:read,acme\n"},
		"ndjson": {NDJSON, "", `{"token": "sk_live_0123456789abcdef", "name": "%s", "scopes": ["inbox:read"]}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			const lines = 50_000
			text := []byte(fmt.Sprintf(parse.line, strings.Repeat("n", 100)))
			input := io.MultiReader(strings.NewReader(parse.head), io.LimitReader(&repeatingReader{text: text}, int64(lines*len(text))))
			heap := func() int64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			var n int
			var early int64
			for line, err := range parse.lines(input) {
				if err != nil || line.Problem != "" || line.Name == "" {
					t.Fatalf("line %d: %v, %s", line.Number, err, line.Problem)
				}
				if n++; n == 1000 {
					early = heap()
				}
				if n == lines {
					if grown := heap() - early; grown > 1<<20 {
						t.Errorf("the heap grew by %d bytes", grown)
					}
				}
			}
			if n != lines {
				t.Errorf("the parser returned %d lines", n)
			}
		})
	}
}

// repeatingReader is a reader that returns the same text again and again without end.
type repeatingReader struct {
	text []byte
	at   int
}

func (r *repeatingReader) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// countingReader counts the bytes that are read.
type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestImportInputWithoutNewline(t *testing.T) {
	for name, c := range map[string]struct {
		lines  parser
		head   string
		number int
	}{
		"an unclosed quote in the last field":  {CSV, "token,name,scopes,user\na,b,c,d\ne,\"", 3},
		"an endless line of CSV":               {CSV, "token,name,scopes,user\na,b,c,d\ne,", 3},
		"an endless header":                    {CSV, "token,", 1},
		"an endless line of NDJSON":            {NDJSON, "{}\n\n{\"token\": \"", 3},
		"a line that is not an object":         {NDJSON, "{}\n", 2},
		"CSV instead of JSON":                  {NDJSON, "token,name\n", 2},
		"an unclosed quote in the first field": {CSV, "token,name,scopes,user\na,b,c,d\n\"e\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			endless := io.LimitReader(&repeatingReader{text: []byte("aaaaaaaaaa")}, 1<<30)
			read := &countingReader{r: io.MultiReader(strings.NewReader(c.head), endless)}
			var last string
			var number int
			for line, err := range c.lines(read) {
				if err != nil {
					t.Fatal(err)
				}
				last, number = line.Problem, line.Number
			}
			if number != c.number || last != badLength && last != badHeader {
				t.Errorf("line %d: %q", number, last)
			}
			if read.n > 2*maxImportLine {
				t.Errorf("the parser read %d bytes", read.n)
			}
		})
	}
}

func TestTruncatedImportInput(t *testing.T) {
	broken := errors.New("the disk is broken")
	for name, lines := range map[string]parser{"csv": CSV, "ndjson": NDJSON} {
		for _, head := range []string{"", "token,name,scopes,user\n", "token,name,scopes,user\na,b,c,d\ne,"} {
			var last error
			for _, err := range lines(io.MultiReader(strings.NewReader(head), iotest.ErrReader(broken))) {
				last = err
			}
			if !errors.Is(last, broken) {
				t.Errorf("%s after %q: %v", name, head, last)
			}
		}
	}
}

func TestImportInputOfASpreadsheet(t *testing.T) {
	for name, c := range map[string]struct {
		lines parser
		text  string
	}{
		"csv":    {CSV, "\uFEFFtoken,name,scopes,workspace\r\nk,n,a b,acme\r\n"},
		"ndjson": {NDJSON, "\uFEFF{\"token\": \"k\", \"name\": \"n\", \"scopes\": [\"a\", \"b\"], \"workspace\": \"acme\"}\r\n"},
	} {
		for line, err := range c.lines(strings.NewReader(c.text)) {
			if err != nil || line.Problem != "" || line.Key != "k" || line.Name != "n" || line.Workspace != "acme" ||
				!slices.Equal(line.Scopes, []string{"a", "b"}) {
				t.Errorf("%s: %+v, %v", name, line, err)
			}
		}
	}
}

func TestImportInputIsStoredUnchangedOrRefused(t *testing.T) {
	digest := strings.Repeat("0F", 32)
	for name, c := range map[string]struct {
		lines parser
		text  string
		want  string
	}{
		"a digest":                     {NDJSON, `{"digest": "` + digest + `"}`, ""},
		"a digest that is too long":    {NDJSON, `{"digest": "` + digest + `0f"}`, badDigest},
		"a digest that is too short":   {NDJSON, `{"digest": "` + digest[2:] + `"}`, badDigest},
		"a digest of 65 digits":        {NDJSON, `{"digest": "` + digest + `0"}`, badDigest},
		"a digest in base64":           {NDJSON, `{"digest": "` + strings.Repeat("z", 64) + `"}`, badDigest},
		"a time with a zone offset":    {NDJSON, `{"created_at": "2030-01-31T12:00:00+05:30"}`, ""},
		"a year after 9999 in UTC":     {NDJSON, `{"expires_at": "9999-12-31T23:59:59-01:00"}`, "expires_at is not"},
		"the year 0":                   {NDJSON, `{"created_at": "0000-12-31T23:59:59Z"}`, "created_at is not"},
		"a day":                        {NDJSON, `{"revoked_at": "2030-01-31"}`, "revoked_at is not"},
		"two objects":                  {NDJSON, `{} {}`, badObject},
		"a duplicate field":            {NDJSON, `{"name": "a", "scopes": [{}], "name": "b"}`, badObject},
		"a field in two cases":         {NDJSON, `{"name": "a", "NAME": "b"}`, badObject},
		"an unknown field":             {NDJSON, `{"scope": "a"}`, badObject},
		"scopes that are not an array": {NDJSON, `{"scopes": "a"}`, badObject},
		"null":                         {NDJSON, `null`, badObject},
		"Latin-1 in JSON":              {NDJSON, "{\"name\": \"Zo\xeb\"}", badEncoding},
		"Latin-1 in CSV":               {CSV, "token,name,scopes,user\nk,Zo\xeb,a,u", badEncoding},
		"a field too many":             {CSV, "token,name,scopes,user\nk,n,a,u,x", badCount},
		"a quote in the middle":        {CSV, "token,name,scopes,user\nk,n\"n,a,u", badQuote},
		"a header in upper case":       {CSV, "Token,name,scopes,user\n", "column 1 has an unknown name"},
		"a quoted header of two lines": {CSV, "\"token\",\"na\nme\",scopes,user\n", "column 2 has an unknown name"},
	} {
		var bad string
		for line, err := range c.lines(strings.NewReader(c.text)) {
			if err != nil {
				t.Fatal(err)
			}
			bad = line.Problem
		}
		if !strings.HasPrefix(bad, c.want) || c.want == "" && bad != "" {
			t.Errorf("%s: got %q, want %q", name, bad, c.want)
		}
	}
}

// problemMessages matches every error message of a parser. It does not match a message that quotes the input.
var problemMessages = regexp.MustCompile(`^(?:` + strings.Join([]string{
	regexp.QuoteMeta(badHeader), regexp.QuoteMeta(badHeaderRow), regexp.QuoteMeta(badQuote), regexp.QuoteMeta(badCount),
	regexp.QuoteMeta(badLength), regexp.QuoteMeta(badObject), regexp.QuoteMeta(badEncoding), regexp.QuoteMeta(badDigest),
	`column \d+ is a duplicate`, `column \d+ has an unknown name; ` + regexp.QuoteMeta(badHeader),
	`(?:created|expires|revoked)_at is not an RFC 3339 time, such as 2030-01-31T12:00:00Z`,
}, "|") + `)$`)

func FuzzImport(f *testing.F) {
	for _, text := range []string{
		"", "\uFEFF", "\n\n", "token,name,scopes,user\n", "token,digest,name,scopes,user,created_at\na,b,c,d e,f,2030-01-31T12:00:00Z\n",
		"sk_live_0123456789abcdef,n,inbox:read,acme\n", "token,token\n", "token,name,scopes,user\n\"a\nb\",\"\"\"\",,\n\"", "token,name,scopes,user\na\"b,,,\n\xff,,,\n",
		`{"token": "sk_live_0123456789abcdef", "name": "n", "scopes": ["a"], "user": "u"}`, `{"digest": "00", "expires_at": "soon"}`,
		"{}\n\n[]\nnull\n{\"a\": 1}\n{} {}\n{\"scopes\": \"a\"}\n{\"token\": 1}\n\xff\n",
		`{"digest": "` + strings.Repeat("0f", 32) + `", "prefix": "vel_", "created_at": "9999-12-31T23:59:59-01:00"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, lines := range map[string]parser{"csv": CSV, "ndjson": NDJSON} {
			last := 0
			for line, err := range lines(bytes.NewReader(text)) {
				switch {
				case err != nil:
					t.Fatalf("%s: %v", name, err)
				case line.Number <= last || line.Number > bytes.Count(text, []byte("\n"))+1:
					t.Fatalf("%s: line %d after line %d", name, line.Number, last)
				case line.Problem != "" && !problemMessages.MatchString(line.Problem):
					t.Fatalf("%s: unknown message %q", name, line.Problem)
				}
				last = line.Number
			}
		}
	})
}
