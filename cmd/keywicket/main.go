// Command keywicket is the sidecar, and the operator's tool for its tokens, workspaces, users and members.
//
// Exit status: 0 done, 1 refused or failed, 2 wrong usage. Errors are one line each on standard error.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store"
)

type commands struct {
	Config      string `help:"Configuration file, instead of $KEYWICKET_CONFIG. Default: what is built in (docs/configuration.md)." placeholder:"FILE"`
	DatabaseURL string `help:"Postgres to use, instead of $KEYWICKET_DATABASE_URL." name:"database-url" placeholder:"URL"`
	Output      string `help:"How to print data: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`

	Serve     serveCommand     `cmd:"" help:"Run the sidecar."`
	Issuer    issuerCommand    `cmd:"" help:"Run the issuer of OAuth 2.0: consent page, tokens."`
	Migrate   migrateCommand   `cmd:"" help:"Bring the database's schema up to date."`
	Workspace workspaceCommand `cmd:"" help:"Create, list and change workspaces."`
	User      userCommand      `cmd:"" help:"Create, list and change users."`
	Member    memberCommand    `cmd:"" help:"Say who is in a workspace, and with which role."`
	Token     tokenCommand     `cmd:"" help:"Create, list, change, revoke and import tokens."`
	Session   sessionCommand   `cmd:"" help:"End sessions before their tokens do."`
	OAuthApp  oauthAppCommand  `cmd:"" name:"oauth-app" help:"Register apps that act for users."`
	Grant     grantCommand     `cmd:"" help:"List and revoke what users have granted to apps."`
	Sidecar   sidecarCommand   `cmd:"" help:"List the sidecars that are running."`
	Explain   explainCommand   `cmd:"" help:"Tell what would become of a request, why, and what would change it."`
	Demo      demoCommand      `cmd:"" help:"Run everything at once: Postgres, the sidecar, Envoy and two upstreams."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
}

// usageError is a command line that says two things at once; it exits with 2.
type usageError struct{ error }

// linesError is an error whose text has an error in each line. Every line gets the prefix, because a collector of logs
// takes lines apart. Other errors are told in one line.
type linesError struct {
	error
	prefix string
}

func (e linesError) Error() string {
	return e.prefix + strings.ReplaceAll(e.error.Error(), "\n", "\n"+e.prefix)
}

func (e linesError) Unwrap() error { return e.error }

// masked cuts arguments that may be a key, pasted in the wrong place, down to what a key may show.
func masked(text string, args []string) string {
	const visible, shortest = 8, 20
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=") // --flag=value
		for _, part := range []string{arg, value} {
			if len(part) >= shortest {
				text = strings.ReplaceAll(text, part, part[:visible]+"…")
			}
		}
	}
	return text
}

var word = regexp.MustCompile(`[A-Za-z0-9._~+/-]+`) // a key is one

const jwtStart = "eyJ" // {" in base64

// masked cuts keys down to what they may show. Unlike arguments that could not be understood, ids, paths and emails stay
// whole.
func (s *invocation) masked(text string) string {
	cfg, err := s.loadConfig()
	if err != nil { // perhaps the very one that is told
		cfg, _ = loadConfig("", nil, nil)
	}
	return word.ReplaceAllStringFunc(text, func(word string) string {
		if strings.HasPrefix(word, jwtStart) && strings.Count(word, ".") >= 2 {
			return jwtStart + "…"
		}
		if start, err := visibleStart(cfg, word); err == nil && start != word {
			return start + "…"
		}
		return word
	})
}

func variable(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// invocation is what a command runs with. Whatever else it names in its Run method is provided: the configuration, the
// database, the registry.
type invocation struct {
	ctx            context.Context
	stdout, stderr io.Writer
	environ        []string
	configFile     string
	databaseURL    string
	json           bool

	opened []io.Closer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	var c commands
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("keywicket"),
		kong.Description("The small process beside Envoy that decides who comes in."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		panic(err) // the commands above are wrong
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "keywicket: %s (keywicket --help tells the commands)\n", masked(err.Error(), args))
		return 2
	}
	s := &invocation{
		ctx: ctx, stdout: stdout, stderr: stderr, environ: environ,
		configFile: cmp.Or(c.Config, variable(environ, "KEYWICKET_CONFIG")), databaseURL: c.DatabaseURL, json: c.Output == "json",
	}
	for _, provider := range []any{s.loadConfig, s.openDatabase, s.openRegistry} {
		if err := parsed.BindSingletonProvider(provider); err != nil {
			panic(err) // as above
		}
	}
	err = errors.Join(parsed.Run(s), s.close())
	if err == nil {
		return 0
	}
	told := []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
	if errors.As(err, &linesError{}) {
		told = strings.Split(err.Error(), "\n")
	}
	for _, line := range told {
		fmt.Fprintf(stderr, "keywicket: %s\n", s.masked(line))
	}
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}

func (s *invocation) loadConfig() (config, error) {
	return loadConfig(s.configFile, s.environ, func(c *config) { set(&c.Database.URL, s.databaseURL) })
}

// openDatabase gives the bare database, to migrate it.
func (s *invocation) openDatabase() (*sqlx.DB, error) {
	url, err := s.namedDatabase()
	if err != nil {
		return nil, err
	}
	db, err := store.Open(url)
	if err == nil {
		s.opened = append(s.opened, db)
	}
	return db, err
}

// openRegistry gives the operator's side of the store.
func (s *invocation) openRegistry() (*store.Registry, error) {
	url, err := s.namedDatabase()
	if err != nil {
		return nil, err
	}
	r, err := store.OpenRegistry(s.ctx, url)
	if err == nil {
		s.opened = append(s.opened, r)
	}
	return r, err
}

// namedDatabase loads the configuration anew: an error of one provider within another is told with a Go type's name.
func (s *invocation) namedDatabase() (string, error) {
	c, err := s.loadConfig()
	if err != nil {
		return "", err
	}
	return c.databaseURL()
}

func (s *invocation) close() error {
	var errs []error
	for _, c := range s.opened {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
