package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/keywicket/keywicket/demo"
)

type demoCommand struct {
	Once bool `help:"Run a tour of requests, print what was expected and seen, and end; exit 1 if they differ."`
	Logs bool `help:"Print what Postgres, the sidecar and Envoy log."`
}

// Run uses the two ports that the documents and the README name; everything else takes a free one.
func (c *demoCommand) Run(s *invocation) (err error) {
	config := demo.Config{VelaFlows: "127.0.0.1:8000", Velocity: "127.0.0.1:8001", Log: io.Discard}
	if c.Logs {
		config.Log = s.stderr
	}
	fmt.Fprintln(s.stdout, "starting Postgres, the sidecar, the issuer of OAuth, two upstreams and Envoy")
	d, err := demo.New(s.ctx, config)
	if err != nil {
		if s.ctx.Err() != nil {
			return errors.New("interrupted while starting")
		}
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if c.Once {
		return d.Tour(s.ctx, s.stdout)
	}
	if err := d.Print(s.stdout); err != nil {
		return err
	}
	return d.Wait(s.ctx)
}
