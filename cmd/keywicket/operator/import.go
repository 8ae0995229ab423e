package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/internal/progress"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/tokenimport"
)

type tokenImport struct {
	Prefix string `help:"Prefix that identifies the kind of token. All tokens of the input must be of this kind." required:"" placeholder:"PREFIX"`
	API    string `help:"The API. Required if several APIs have this prefix." name:"api" placeholder:"NAME"`
	Format string `help:"Format of the input: csv or ndjson." enum:"csv,ndjson" default:"csv" placeholder:"FORMAT"`
}

func (*tokenImport) Help() string {
	return `Reads a product's existing tokens from standard input, and imports all of them or none. CSV starts with a row of
column names. NDJSON has one object on each line. The columns or fields, in any order:

  token                 the whole key; this process stores only its SHA-256 and its visible prefix
  digest, prefix        without the column token: the SHA-256 of the whole key in hex, and the visible prefix of the key
  name                  the name of the token
  scopes                CSV: separated by spaces; NDJSON: an array
  workspace | user      the owner: a workspace's id or slug, or a user's id or email
  created_at, expires_at, revoked_at      RFC 3339 times; optional
  attributes            CSV: the text of a JSON object; NDJSON: a JSON object; policies can read it; optional`
}

func (c *tokenImport) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	api, format, err := findFormat(cfg, c.Prefix, c.API)
	if err != nil {
		return err
	}
	rules, err := rulesOf(cfg, api)
	if err != nil {
		return err
	}
	valid := rules.ScopesOf(format.Kind)
	stdin := &countingReader{r: interruptible(s.Context, os.Stdin)}
	bar := progress.New(s.Stderr, size(os.Stdin), func() int64 { return stdin.n })
	parse := tokenimport.CSV
	if c.Format == "ndjson" {
		parse = tokenimport.NDJSON
	}
	scopes := tokenimport.Scopes{Valid: valid}
	n, err := tokenimport.Run(s.Context, r, tokenimport.Import{Format: format, API: api, Lines: withProgress(bar, scopes.Check(parse(stdin)))})
	bar.End()
	if refused, ok := errors.AsType[*tokenimport.Error](err); ok {
		for _, l := range refused.Lines {
			fmt.Fprintf(s.Stderr, "line %d: %s\n", l.Number, l.Reason)
		}
		if more := refused.Bad - len(refused.Lines); more > 0 {
			fmt.Fprintf(s.Stderr, "and %d more\n", more)
		}
		if scopes.FoundInvalid {
			fmt.Fprintf(s.Stderr, "valid scopes: %s\n", strings.Join(valid, ", "))
		}
	}
	if err != nil {
		return err
	}
	return invocation.PrintOne(s, struct {
		Imported int `json:"imported"`
	}{n}, [2]string{"imported", strconv.Itoa(n)})
}

// withProgress returns the lines, and shows the progress while the caller reads the lines.
func withProgress(bar *progress.Bar, lines iter.Seq2[tokenimport.Line, error]) iter.Seq2[tokenimport.Line, error] {
	return func(yield func(tokenimport.Line, error) bool) {
		for line, err := range lines {
			bar.Row()
			if !yield(line, err) {
				return
			}
		}
		bar.DrawStoring()
	}
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

// interruptible returns a reader whose reads fail when the context is canceled. Direct reads of standard input would not fail.
// The goroutine that reads r may stay blocked until the process exits.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	return out
}

// size returns the size of a regular file in bytes. For anything else, such as a pipe, it returns 0.
func size(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}
