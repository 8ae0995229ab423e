package main

import (
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/issuer"
)

type issuerCommand struct{}

func (c *issuerCommand) Run(s *invocation, cfg config.Config) error {
	ignoreHangup()
	return issuer.Run(s.ctx, cfg, version(), s.stderr)
}
