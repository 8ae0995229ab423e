package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/own"
)

type demoCommand struct {
	PoliciesDir string `help:"Folder of policies. Overrides $KEYWICKET_POLICIES_DIR. Default: the built-in policies, with a tour of their APIs." name:"policies-dir" placeholder:"DIR"`
	All         bool   `help:"Print all keys and all requests, and the steps of OAuth 2.0." xor:"print"`
	Once        bool   `help:"Send a series of requests, print the expected and the actual results, and exit. With the built-in policies, the exit status is 1 if they differ. With other policies, it is 1 if a request gets no decision." xor:"print"`
	Logs        bool   `help:"Print the logs of Postgres, the sidecar and Envoy. Default: write them to a temporary file."`
}

// Run starts the demo. Envoy listens on the documented ports 8000 and 8001. All other servers use free ports.
func (c *demoCommand) Run(s *invocation.Invocation) (err error) {
	dir := cmp.Or(c.PoliciesDir, invocation.Variable(s.Environ, "KEYWICKET_POLICIES_DIR"))
	policies, environ, err := own.Load(s.Context, s.ConfigFile, dir)
	if err != nil {
		return starting(s, err)
	}
	demoConfig := demo.Config{VelaFlows: "127.0.0.1:8000", Velocity: "127.0.0.1:8001", Own: policies, Environ: environ}
	if c.Logs {
		demoConfig.Log = s.Stderr
	}
	parts := "Postgres, the sidecar, the OAuth issuer, two upstreams and Envoy"
	if policies != nil {
		policies.Flags = invocation.CommandLine("", [][2]string{{"--config", s.ConfigFlag}, {"--policies-dir", c.PoliciesDir}})
		parts = "Postgres, the sidecar, two upstreams and Envoy, with the policies of " + cmp.Or(dir, s.ConfigFile)
	}
	fmt.Fprintln(s.Stdout, "starting "+parts)
	d, err := demo.New(s.Context, demoConfig)
	if err != nil {
		return starting(s, err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	switch {
	case c.Once:
		return d.Tour(s.Context, s.Stdout)
	case c.All:
		err = d.Print(s.Stdout)
	default:
		err = d.PrintSummary(s.Context, s.Stdout)
	}
	if err != nil {
		return err
	}
	return d.Wait(s.Context)
}

// starting returns the error of a demo that could not start.
func starting(s *invocation.Invocation, err error) error {
	if s.Context.Err() != nil {
		return errors.New("interrupted while starting")
	}
	return err
}
