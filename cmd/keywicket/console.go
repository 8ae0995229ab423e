package main

import (
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/console"
)

type consoleCommand struct{}

func (c *consoleCommand) Run(s *invocation.Invocation, cfg config.Config) error {
	ignoreHangup()
	return console.Run(s.Context, cfg, version(), s.Stderr)
}
