// Command keywicket runs the sidecar, and manages its tokens, workspaces, users and members.
//
// Exit status: 0 success, 1 failure, 2 invalid command line. Each error is one line on standard error.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/cmd/keywicket/operator"
	"github.com/keywicket/keywicket/internal/commandline"
)

type commands struct {
	Config      string `help:"Configuration file. Overrides $KEYWICKET_CONFIG. Default: the built-in defaults (docs/configuration.md)." placeholder:"FILE"`
	DatabaseURL string `help:"Postgres URL. Overrides $KEYWICKET_DATABASE_URL." name:"database-url" placeholder:"URL"`
	Output      string `help:"Output format: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`

	ShowVersion kong.VersionFlag `help:"Print the version." name:"version"`

	Serve             serveCommand   `cmd:"" help:"Run the sidecar."`
	Issuer            issuerCommand  `cmd:"" help:"Run the OAuth 2.0 issuer: consent page and token endpoints."`
	Console           consoleCommand `cmd:"" help:"Run the console: settings pages and management API."`
	operator.Commands `embed:""`
	Demo              demoCommand    `cmd:"" help:"Run a complete stack: Postgres, the sidecar, the issuer, the console, Envoy and two upstreams."`
	Version           versionCommand `cmd:"" help:"Print the version."`

	Completion    completionCommand `cmd:"" help:"Print a script with which a shell completes keywicket's commands and flags."`
	CompleteWords completeWords     `cmd:"" hidden:""`
}

// BeforeApply is called by the parser before it validates and stores the values.
func (*commands) BeforeApply(c *kong.Context) error { return commandline.Check(c) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	var c commands
	exitCode := -1
	parser, err := kong.New(&c,
		kong.Name("keywicket"),
		kong.Description("Envoy ext_authz sidecar that authenticates and authorizes API requests."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exitCode = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": "keywicket " + shownVersion()},
	)
	if err != nil {
		panic(err) // the struct tags of commands are invalid
	}
	parsed, err := parser.Parse(commandline.JoinNumbers(args))
	if exitCode >= 0 {
		return exitCode
	}
	if err != nil {
		fmt.Fprintf(stderr, "keywicket: %s\n", mask.Arguments(commandline.Message(err), args))
		return 2
	}
	s := &invocation.Invocation{
		Context: ctx, Stdout: stdout, Stderr: stderr, Environ: environ,
		ConfigFile: cmp.Or(c.Config, invocation.Variable(environ, "KEYWICKET_CONFIG")), ConfigFlag: c.Config, DatabaseURL: c.DatabaseURL,
		JSON: c.Output == "json",
	}
	for _, provider := range []any{s.LoadConfig, s.OpenDatabase, s.OpenRegistry} {
		if err := parsed.BindSingletonProvider(provider); err != nil {
			panic(err) // a provider has an invalid signature
		}
	}
	return s.Report(errors.Join(parsed.Run(s), s.Close()))
}
