package operator

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/bearer"
	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/explain/verify"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
	"github.com/keywicket/keywicket/store/registry"
)

type tokenLeaked struct{ waitFlag }

func (*tokenLeaked) Help() string {
	return `Reads leaked tokens from standard input, one on each line: keys, and access tokens of apps. Revokes each of them, and notes that
it leaked. For the access token of an app, it revokes the whole grant, because the refresh token may have leaked too. The output has a
result for each line, and no token. An unknown token is not an error: the exit status is 1 only if a revocation failed. The tokens
are no arguments, because other users of the machine can see arguments.`
}

// leakedLine is the output for a line of the input. It contains no more of the token than its visible prefix.
type leakedLine struct {
	Line int `json:"line"`
	leaked.Credential
	Explanation string `json:"explanation,omitempty"` // why the token is unknown
}

func (c *tokenLeaked) Run(s *invocation.Invocation, cfg config.Config) error {
	credentials, lines, err := readCredentials(s)
	if err != nil {
		return err
	}
	r, err := s.OpenRegistry()
	if err != nil {
		return err
	}
	results, failed := leaked.Revoke(s.Context, r, database.Actor{}, credentials)
	if failed != nil && len(results) == 0 {
		return failed
	}
	output := make([]leakedLine, len(results))
	for i, l := range results {
		output[i] = leakedLine{Line: lines[i], Credential: l}
		output[i].describe(cfg, credentials[i].Reveal())
	}
	if err := c.print(s, r, output, failed == nil); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("the lines from %d were not processed: %w: run the command again", lines[len(results)], failed)
	}
	return nil
}

// readCredentials returns the lines of standard input without white space, and their numbers. It ignores empty lines.
func readCredentials(s *invocation.Invocation) (credentials []authz.Secret, lines []int, err error) {
	if err := refuseTerminal("keywicket token leaked"); err != nil {
		return nil, nil, err
	}
	const limit = 16 << 10 // longer than every credential, so the rest of a line does not matter
	in := bufio.NewReaderSize(interruptible(s.Context, os.Stdin), limit)
	for number, rest := 1, false; ; {
		part, more, err := in.ReadLine()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read standard input: %w", err)
		}
		if text := bytes.TrimSpace(part); !rest && len(text) > 0 {
			credentials, lines = append(credentials, authz.Secret(text)), append(lines, number)
		}
		if rest = more; !more {
			number++
		}
	}
	if len(credentials) == 0 {
		return nil, nil, errors.New("standard input is empty: give one token per line, such as keywicket token leaked < FILE")
	}
	return credentials, lines, nil
}

// describe adds the visible prefix of a token if the database does not have it, and why a token is unknown.
func (l *leakedLine) describe(cfg config.Config, text string) {
	if l.Prefix == "" && bearer.IsB64Token(text) {
		l.Prefix, _ = mask.Start(cfg.APIs, text) // without a matching format, nothing of the token may be shown
	}
	if l.Result != leaked.Unknown {
		return
	}
	l.Explanation = "no token in this database has this key"
	token, err := verify.Recognize(cfg.APIs, text, "")
	switch {
	case err != nil:
		l.Explanation = err.Error()
	case token.OfSession():
		l.Explanation = "this is the token of a session: run keywicket session revoke"
	}
}

// print writes a result for each line. With --wait, it then waits for the sidecars, unless the revocation is incomplete.
func (c *tokenLeaked) print(s *invocation.Invocation, r *registry.Registry, output []leakedLine, complete bool) error {
	w := waitFlag{Wait: c.Wait && complete}
	if s.JSON {
		return w.printOne(s, r, map[string][]leakedLine{"tokens": output})
	}
	titles := []string{"LINE", "PREFIX", "KIND", "NAME", "OWNER", "RESULT"}
	err := invocation.PrintList(s, output, titles, func(l leakedLine) []string {
		return []string{
			strconv.Itoa(l.Line), cmp.Or(l.Prefix, "-"), cmp.Or(string(l.Kind), "-"), cmp.Or(l.Name, "-"), cmp.Or(l.Owner, "-"), l.result(),
		}
	})
	if err != nil || !w.Wait {
		return err
	}
	return w.printOne(s, r, nil)
}

func (l *leakedLine) result() string {
	switch {
	case l.Result == leaked.Unknown:
		return "unknown: " + l.Explanation
	case l.Result == leaked.AlreadyRevoked:
		return "was already revoked"
	case l.GrantID != nil:
		return "revoked now, with its grant " + *l.GrantID
	}
	return "revoked now"
}
