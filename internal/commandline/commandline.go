// Package commandline contains types for the values of flags, and corrects the messages of kong, the parser of the command line.
package commandline

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// Count is the value of a flag that takes a number of at least 1.
type Count int

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a whole number of at least 1", text)
	}
	if n < 1 {
		return fmt.Errorf("%d is less than 1", n)
	}
	*c = Count(n)
	return nil
}

// NonEmpty is the value of a flag whose absence has another meaning than the empty text, such as an unset variable of a shell.
type NonEmpty string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (n *NonEmpty) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the value is empty")
	}
	*n = NonEmpty(text)
	return nil
}

// Lifetime is the value of a flag that takes a positive duration: the syntax of [time.ParseDuration], or whole days such as 90d.
type Lifetime time.Duration

// UnmarshalText implements [encoding.TextUnmarshaler].
func (l *Lifetime) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a lifetime: write a positive duration, such as 90d or 12h", text)
	}
	*l = Lifetime(d)
	return nil
}

// String returns the value in the syntax of the flag, or "" for 0.
func (l Lifetime) String() string {
	const day = Lifetime(24 * time.Hour)
	switch {
	case l == 0:
		return ""
	case l%day == 0:
		return fmt.Sprintf("%dd", l/day)
	}
	return time.Duration(l).String()
}

// Instant is the value of a flag that takes an RFC 3339 time.
type Instant time.Time

// UnmarshalText implements [encoding.TextUnmarshaler].
func (i *Instant) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q is not an RFC 3339 time, such as 2030-01-31T12:00:00Z", text)
	}
	*i = Instant(t)
	return nil
}

var (
	longFlag       = regexp.MustCompile(`^--[a-z][a-z-]*$`)
	negativeNumber = regexp.MustCompile(`^-\.?[0-9]`)
)

// JoinNumbers writes a flag and a negative number as one argument: --limit -5 becomes --limit=-5. Otherwise, kong reads -5 as a
// flag, and does not pass it to the type that validates the value.
func JoinNumbers(args []string) []string {
	var joined []string
	for i, arg := range args {
		if arg == "--" {
			return append(joined, args[i:]...)
		}
		if i > 0 && negativeNumber.MatchString(arg) && longFlag.MatchString(args[i-1]) {
			joined[len(joined)-1] += "=" + arg
			continue
		}
		joined = append(joined, arg)
	}
	return joined
}

// parserWords replaces parts of kong's messages that name the internals of kong.
var parserWords = strings.NewReplacer(
	"expected value value", "expected a value",
	`but got "EOL" (<EOL>)`, "but nothing follows",
	`must be one of "",`, "must be one of ", // the empty value means that the flag is not given
)

// Message returns the message of an error of the parser, and the command that prints the help for it.
func Message(err error) string {
	help := "keywicket --help for the commands"
	if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context.Selected() != nil {
		node := e.Context.Selected()
		help = node.FullPath() + " --help for its commands"
		if node.Leaf() {
			help = node.FullPath() + " --help for its flags"
		}
	}
	return fmt.Sprintf("%s (run %s)", parserWords.Replace(err.Error()), help)
}
