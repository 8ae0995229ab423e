package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/keywicket/keywicket/demo"
)

type demoCommand struct {
	Once bool `help:"Send a series of requests, print the expected and the actual results, and exit. The exit status is 1 if they differ."`
	Logs bool `help:"Print the logs of Postgres, the sidecar and Envoy."`
}

// Run starts the demo. Envoy listens on the documented ports 8000 and 8001. All other servers use free ports.
func (c *demoCommand) Run(s *invocation) (err error) {
	config := demo.Config{VelaFlows: "127.0.0.1:8000", Velocity: "127.0.0.1:8001", Log: io.Discard}
	if c.Logs {
		config.Log = s.stderr
	}
	fmt.Fprintln(s.stdout, "starting Postgres, the sidecar, the OAuth issuer, two upstreams and Envoy")
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
