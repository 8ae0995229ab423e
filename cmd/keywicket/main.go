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
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/internal/commandline"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

type commands struct {
	Config      string `help:"Configuration file. Overrides $KEYWICKET_CONFIG. Default: the built-in defaults (docs/configuration.md)." placeholder:"FILE"`
	DatabaseURL string `help:"Postgres URL. Overrides $KEYWICKET_DATABASE_URL." name:"database-url" placeholder:"URL"`
	Output      string `help:"Output format: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`

	ShowVersion kong.VersionFlag `help:"Print the version." name:"version"`

	Serve     serveCommand     `cmd:"" help:"Run the sidecar."`
	Issuer    issuerCommand    `cmd:"" help:"Run the OAuth 2.0 issuer: consent page and token endpoints."`
	Migrate   migrateCommand   `cmd:"" help:"Update the database schema, or show its state."`
	Workspace workspaceCommand `cmd:"" help:"Create, list and change workspaces."`
	User      userCommand      `cmd:"" help:"Create, list and change users."`
	Member    memberCommand    `cmd:"" help:"Manage the members of workspaces and their roles."`
	Token     tokenCommand     `cmd:"" help:"Create, list, change, revoke and import tokens."`
	Session   sessionCommand   `cmd:"" help:"Revoke sessions before their tokens expire."`
	OAuthApp  oauthAppCommand  `cmd:"" name:"oauth-app" help:"Manage OAuth apps, which act for users."`
	Grant     grantCommand     `cmd:"" help:"List and revoke the grants that users gave to apps."`
	Audit     auditCommand     `cmd:"" help:"Show who changed what."`
	Sidecar   sidecarCommand   `cmd:"" help:"List the running sidecars."`
	Explain   explainCommand   `cmd:"" help:"Show the decision for a request, its cause, and how to get the request allowed."`
	Demo      demoCommand      `cmd:"" help:"Run a complete stack: Postgres, the sidecar, the issuer, Envoy and two upstreams."`
	Version   versionCommand   `cmd:"" help:"Print the version."`

	Completion    completionCommand `cmd:"" help:"Print a script with which a shell completes keywicket's commands and flags."`
	CompleteWords completeWords     `cmd:"" hidden:""`
}

// usageError is an error in the command line. The exit status is 2.
type usageError struct{ error }

// undefinedError is the error for a prefix, an API, a scope or a role that the configuration and its policies do not define.
type undefinedError struct{ error }

// maskKeys shortens each key in the text to its visible prefix: see [mask.Keys].
func (s *invocation) maskKeys(text string) string {
	cfg, err := s.loadConfig()
	if err != nil { // text may be the message of this error, so mask it with the default configuration
		cfg, _ = config.Load("", nil, nil)
	}
	return mask.Keys(cfg.APIs, text)
}

// variable returns the value of an environment variable, or "".
func variable(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// invocation contains the data that every command needs: context, output, environment and global flags. kong, the parser of the
// command line, passes the other parameters of a Run method: the configuration, the database, the registry.
type invocation struct {
	ctx            context.Context
	stdout, stderr io.Writer
	environ        []string
	configFile     string
	configFlag     string // the value of --config, for the commands that keywicket proposes
	databaseURL    string
	json           bool

	closers []io.Closer
}

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
	s := &invocation{
		ctx: ctx, stdout: stdout, stderr: stderr, environ: environ,
		configFile: cmp.Or(c.Config, variable(environ, "KEYWICKET_CONFIG")), configFlag: c.Config, databaseURL: c.DatabaseURL, json: c.Output == "json",
	}
	for _, provider := range []any{s.loadConfig, s.openDatabase, s.openRegistry} {
		if err := parsed.BindSingletonProvider(provider); err != nil {
			panic(err) // a provider has an invalid signature
		}
	}
	err = errors.Join(parsed.Run(s), s.close())
	if err == nil {
		return 0
	}
	if url, urlErr := s.configuredDatabaseURL(); urlErr == nil {
		err = database.AddLoginRemedy(s.ctx, url, err)
	}
	if errors.As(err, &undefinedError{}) && s.configFile == "" {
		err = fmt.Errorf("%w (no configuration file was read: if it is defined in one, name the file with --config FILE or KEYWICKET_CONFIG)", err)
	}
	lines := []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
	if errors.As(err, &config.PoliciesError{}) { // all other errors are printed as one line
		lines = strings.Split(err.Error(), "\n")
	}
	for _, line := range lines {
		fmt.Fprintf(stderr, "keywicket: %s\n", s.maskKeys(line))
	}
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}

func (s *invocation) loadConfig() (config.Config, error) {
	return config.Load(s.configFile, s.environ, func(c *config.Config) { setIfNotEmpty(&c.Database.URL, s.databaseURL) })
}

// openDatabase opens the database without a check of its schema, for migrations.
func (s *invocation) openDatabase() (*sqlx.DB, error) {
	url, err := s.configuredDatabaseURL()
	if err != nil {
		return nil, err
	}
	db, err := database.Open(url)
	if err == nil {
		s.closers = append(s.closers, db)
	}
	return db, err
}

// openRegistry opens the store for the operator's commands.
func (s *invocation) openRegistry() (*registry.Registry, error) {
	url, err := s.configuredDatabaseURL()
	if err != nil {
		return nil, err
	}
	r, err := registry.Open(s.ctx, url)
	if err == nil {
		s.closers = append(s.closers, r)
	}
	return r, err
}

// configuredDatabaseURL returns the database URL of the configuration, for openDatabase and openRegistry. If these functions had
// the configuration as a parameter, kong would add the name of a Go type to an error of loadConfig.
func (s *invocation) configuredDatabaseURL() (string, error) {
	c, err := s.loadConfig()
	if err != nil {
		return "", err
	}
	return c.DatabaseURL()
}

func (s *invocation) close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
