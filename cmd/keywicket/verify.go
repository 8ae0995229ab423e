package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/verify"
)

type tokenVerify struct {
	API string `help:"The API that the token must be for. Default: any API." name:"api" placeholder:"NAME"`
}

func (*tokenVerify) Help() string {
	return `Reads one token from standard input, and shows everything about it except the token. The exit status is 0 if a sidecar
accepts the token now, and 1 if not. The token is no argument, because other users of the machine can see arguments.`
}

func (c *tokenVerify) Run(s *invocation, cfg config.Config) error {
	text, err := readWord(s)
	if err != nil {
		return err
	}
	token, err := verify.Recognize(cfg.APIs, text, c.API)
	if errors.As(err, &verify.UndefinedError{}) {
		return undefinedError{err}
	}
	if err != nil {
		return err
	}
	r, err := s.openRegistry()
	if err != nil {
		return err
	}
	v, err := token.Verify(s.ctx, r)
	if err != nil {
		return err
	}
	if err := printVerified(s, v); err != nil {
		return err
	}
	if !v.Good {
		return fmt.Errorf("the token is not good: %s", v.Explanation)
	}
	return nil
}

// readWord returns the only word of standard input.
func readWord(s *invocation) (string, error) {
	info, err := os.Stdin.Stat()
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	null, err := os.Stat(os.DevNull)
	if info.Mode()&os.ModeCharDevice != 0 && (err != nil || !os.SameFile(info, null)) {
		return "", errors.New("standard input is a terminal, which would show the token: redirect a file or a program, such as keywicket token verify < FILE")
	}
	const limit = 16 << 10 // longer than every credential
	text, err := io.ReadAll(io.LimitReader(interruptible(s.ctx, os.Stdin), limit))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	words := strings.Fields(string(text))
	switch len(words) {
	case 0:
		return "", errors.New("standard input is empty: give one token, such as keywicket token verify < FILE")
	case 1:
		return words[0], nil
	}
	return "", errors.New(`standard input has several lines or words: give only one token, without "Bearer"`)
}

func printVerified(s *invocation, v verify.Result) error {
	good := "yes"
	if !v.Good {
		good = "no: " + v.Explanation
	}
	fields := [][2]string{
		{"good", good}, {"kind", string(v.Kind)}, {"api", v.API}, {"environment", string(v.Environment)}, {"prefix", v.Prefix},
	}
	if v.ID != nil {
		owner := [2]string{"workspace"}
		id := v.WorkspaceID
		if id == nil {
			owner[0], id = "user", v.UserID
		}
		owner[1] = fmt.Sprintf("%s (%s)", *id, *v.Owner)
		fields = append(fields, [2]string{"id", *v.ID}, [2]string{"name", *v.Name}, owner, [2]string{"scopes", strings.Join(v.Scopes, " ")},
			[2]string{"created", formatTime(v.CreatedAt)}, [2]string{"expires", formatTime(v.ExpiresAt)},
			[2]string{"revoked", formatTime(v.RevokedAt)}, [2]string{"last used", formatTime(v.LastUsedAt)})
	}
	return printOne(s, v, fields...)
}
