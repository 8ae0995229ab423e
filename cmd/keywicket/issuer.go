package main

import (
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/issuer"
)

type issuerCommand struct{}

func (c *issuerCommand) Run(s *invocation.Invocation, cfg config.Config) error {
	ignoreHangup()
	return issuer.Run(s.Context, cfg, version(), s.Stderr)
}
