package operator

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/explain/verify"
	"github.com/keywicket/keywicket/service/config"
)

type tokenVerify struct {
	API string `help:"The API that the token must be for. Default: any API. If several APIs accept sessions, --api is required for the token of a session." name:"api" placeholder:"NAME"`
}

func (*tokenVerify) Help() string {
	return `Reads one token from standard input, and shows everything about it except the token: a key, the access token of an app, or
the token of a session. The exit status is 0 if a sidecar accepts the token now, and 1 if not. The token is no argument, because other
users of the machine can see arguments.`
}

func (c *tokenVerify) Run(s *invocation.Invocation, cfg config.Config) error {
	text, err := readWord(s)
	if err != nil {
		return err
	}
	token, err := verify.Recognize(cfg.APIs, text, c.API)
	if errors.As(err, &verify.UndefinedError{}) {
		return invocation.Undefined(err)
	}
	if err != nil {
		return err
	}
	r, err := s.OpenRegistry()
	if err != nil {
		return err
	}
	v, err := token.Verify(s.Context, r)
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
func readWord(s *invocation.Invocation) (string, error) {
	if err := refuseTerminal("keywicket token verify"); err != nil {
		return "", err
	}
	const limit = 16 << 10 // longer than every credential
	text, err := io.ReadAll(io.LimitReader(interruptible(s.Context, os.Stdin), limit))
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

// refuseTerminal returns an error if standard input is a terminal, because a terminal would show a token.
func refuseTerminal(command string) error {
	info, err := os.Stdin.Stat()
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	null, err := os.Stat(os.DevNull)
	if info.Mode()&os.ModeCharDevice != 0 && (err != nil || !os.SameFile(info, null)) {
		return errors.New("standard input is a terminal, which would show the token: redirect a file or a program, such as " + command + " < FILE")
	}
	return nil
}

func printVerified(s *invocation.Invocation, v verify.Result) error {
	good := "yes"
	if !v.Good {
		good = "no: " + v.Explanation
	}
	fields := [][2]string{
		{"good", good}, {"kind", string(v.Kind)}, {"api", v.API}, {"environment", string(v.Environment)}, {"prefix", v.Prefix},
	}
	add := func(name, value string) { fields = append(fields, [2]string{name, value}) }
	if v.ID == nil {
		return invocation.PrintOne(s, v, fields...)
	}
	add("id", *v.ID)
	if v.Name != nil {
		add("name", *v.Name)
	}
	if v.App != nil {
		add("app", fmt.Sprintf("%s (%s)", v.App.ClientID, v.App.Name))
		add("grant", v.App.GrantID)
	}
	switch {
	case v.WorkspaceID != nil:
		add("workspace", fmt.Sprintf("%s (%s)", *v.WorkspaceID, *v.Owner))
	case v.Owner == nil:
		add("user", *v.UserID)
	default:
		add("user", fmt.Sprintf("%s (%s)", *v.UserID, *v.Owner))
	}
	if v.App != nil {
		add("workspaces", cmp.Or(strings.Join(v.App.Workspaces, " "), "-"))
	}
	add("scopes", strings.Join(v.Scopes, " "))
	if v.Session != nil {
		add("started", invocation.FormatTime(v.Session.StartedAt))
		add("expires", invocation.FormatTime(v.ExpiresAt))
		add("aal", cmp.Or(v.Session.AAL, "-"))
		add("second factor", map[bool]string{true: "enrolled", false: "not enrolled"}[v.Session.MFAEnrolled])
		if v.Session.ConsoleOnly {
			add("accepted for", "paths below "+authz.ConsolePath)
		}
		return invocation.PrintOne(s, v, fields...)
	}
	add("created", invocation.FormatTime(v.CreatedAt))
	add("expires", invocation.FormatTime(v.ExpiresAt))
	revoked := invocation.FormatTime(v.RevokedAt)
	if v.RevokedReason != nil {
		revoked += " (" + *v.RevokedReason + ")"
	}
	add("revoked", revoked)
	if v.Name != nil { // the last use of the tokens of apps is not recorded
		add("last used", invocation.FormatTime(v.LastUsedAt))
	}
	return invocation.PrintOne(s, v, fields...)
}
