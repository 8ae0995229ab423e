package main

import (
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/internal/completion"
)

type completionCommand struct {
	Shell string `arg:"" help:"The shell: bash, zsh or fish." enum:"bash,zsh,fish"`
}

func (*completionCommand) Help() string {
	return "Prints a script. The first lines of the script say how to load it."
}

func (c *completionCommand) Run(s *invocation.Invocation) error {
	script, err := completion.Script(c.Shell)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.Stdout, script)
	return err
}

// completeWords is the command that the completion scripts run. The words follow --.
type completeWords struct {
	Words []string `arg:"" passthrough:""`
}

func (c *completeWords) Run(s *invocation.Invocation, k *kong.Kong) error {
	var lines strings.Builder
	for _, word := range completion.Words(k.Model, c.Words[1:]) { // the first word is --
		lines.WriteString(word + "\n")
	}
	_, err := io.WriteString(s.Stdout, lines.String())
	return err
}
