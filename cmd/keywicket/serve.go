package main

import (
	"os/signal"
	"syscall"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/sidecar"
)

type serveCommand struct {
	ListenGRPC       string `help:"Address of the ext_authz server: host:port or unix:///path." name:"listen-grpc" placeholder:"ADDRESS"`
	ListenOperations string `help:"Address of /livez, /readyz and /metrics: host:port or unix:///path." name:"listen-operations" placeholder:"ADDRESS"`
	PoliciesDir      string `help:"Folder of policies. Default: the built-in policies." name:"policies-dir" placeholder:"DIR"`
	LogLevel         string `help:"Log level: debug, info, warn or error." name:"log-level" enum:",debug,info,warn,error" default:"" placeholder:"LEVEL"`
}

// apply returns a function that sets the values of the flags in a configuration.
func (c *serveCommand) apply(s *invocation.Invocation) func(*config.Config) {
	return func(cfg *config.Config) {
		invocation.SetIfNotEmpty(&cfg.Database.URL, s.DatabaseURL)
		invocation.SetIfNotEmpty(&cfg.Listen.GRPC, c.ListenGRPC)
		invocation.SetIfNotEmpty(&cfg.Listen.Operations, c.ListenOperations)
		invocation.SetIfNotEmpty(&cfg.Policies.Dir, c.PoliciesDir)
		invocation.SetIfNotEmpty(&cfg.Log.Level, c.LogLevel)
	}
}

func (c *serveCommand) Run(s *invocation.Invocation) error {
	ignoreHangup()
	cfg, err := config.Load(s.ConfigFile, s.Environ, c.apply(s))
	if err != nil {
		return err
	}
	return sidecar.Run(s.Context, cfg, version(), s.Stderr)
}

// ignoreHangup keeps a server running after its terminal closes.
func ignoreHangup() { signal.Ignore(syscall.SIGHUP) }
