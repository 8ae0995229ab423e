// Package invocation contains what one run of the program keywicket needs: its context, outputs, configuration and database, and
// the report of its error.
package invocation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Invocation contains the data that every command needs: context, output, environment and global flags. kong, the parser of the
// command line, passes the other parameters of a Run method: the configuration, the database, the registry.
type Invocation struct {
	Context        context.Context
	Stdout, Stderr io.Writer
	Environ        []string
	ConfigFile     string
	ConfigFlag     string // the value of --config, for the commands that keywicket proposes
	DatabaseURL    string
	JSON           bool

	closers []io.Closer
}

// Usage marks an error in the command line. The exit status is 2.
func Usage(err error) error { return usageError{err} }

// Undefined marks the error for a prefix, an API, a scope or a role that the configuration and its policies do not define.
func Undefined(err error) error { return undefinedError{err} }

type (
	usageError     struct{ error }
	undefinedError struct{ error }
)

// LoadConfig reads the configuration.
func (s *Invocation) LoadConfig() (config.Config, error) {
	return config.Load(s.ConfigFile, s.Environ, func(c *config.Config) { SetIfNotEmpty(&c.Database.URL, s.DatabaseURL) })
}

// OpenDatabase opens the database without a check of its schema, for migrations.
func (s *Invocation) OpenDatabase() (*sqlx.DB, error) {
	url, err := s.ConfiguredDatabaseURL()
	if err != nil {
		return nil, err
	}
	db, err := database.Open(url)
	if err == nil {
		s.closers = append(s.closers, db)
	}
	return db, err
}

// OpenRegistry opens the store for the operator's commands.
func (s *Invocation) OpenRegistry() (*registry.Registry, error) {
	url, err := s.ConfiguredDatabaseURL()
	if err != nil {
		return nil, err
	}
	r, err := registry.Open(s.Context, url)
	if err == nil {
		s.closers = append(s.closers, r)
	}
	return r, err
}

// ConfiguredDatabaseURL returns the database URL of the configuration, for OpenDatabase and OpenRegistry. If these functions had
// the configuration as a parameter, kong would add the name of a Go type to an error of LoadConfig.
func (s *Invocation) ConfiguredDatabaseURL() (string, error) {
	c, err := s.LoadConfig()
	if err != nil {
		return "", err
	}
	return c.DatabaseURL()
}

// Close closes what the other functions have opened.
func (s *Invocation) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Report writes an error to the standard error output, and returns the exit status. It is 0 if there is no error, 2 for an error of
// [Usage], and 1 for any other error.
func (s *Invocation) Report(err error) (status int) {
	if err == nil {
		return 0
	}
	if url, urlErr := s.ConfiguredDatabaseURL(); urlErr == nil {
		err = database.AddLoginRemedy(s.Context, url, err)
	}
	if errors.As(err, &undefinedError{}) && s.ConfigFile == "" {
		err = fmt.Errorf("%w (no configuration file was read: if it is defined in one, name the file with --config FILE or KEYWICKET_CONFIG)", err)
	}
	lines := []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
	if errors.As(err, &config.PoliciesError{}) { // all other errors are printed as one line
		lines = strings.Split(err.Error(), "\n")
	}
	for _, line := range lines {
		fmt.Fprintf(s.Stderr, "keywicket: %s\n", s.MaskKeys(line))
	}
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}

// MaskKeys shortens each key in the text to its visible prefix: see [mask.Keys].
func (s *Invocation) MaskKeys(text string) string {
	cfg, err := s.LoadConfig()
	if err != nil { // text may be the message of this error, so mask it with the default configuration
		cfg, _ = config.Load("", nil, nil)
	}
	return mask.Keys(cfg.APIs, text)
}

// Variable returns the value of an environment variable, or "".
func Variable(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// SetIfNotEmpty assigns value unless it is empty.
func SetIfNotEmpty(target *string, value string) {
	if value != "" {
		*target = value
	}
}
