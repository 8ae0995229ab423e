// Package config reads the configuration of the sidecar, the issuer and the commands.
package config

import (
	_ "embed"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictyaml"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
)

//go:embed defaults.yaml
var defaults []byte

// Config is the configuration file. defaults.yaml contains every key with its default.
type Config struct {
	Database          Database             `yaml:"database"`
	Cache             Cache                `yaml:"cache"`
	Listen            Listen               `yaml:"listen"`
	Issuer            Issuer               `yaml:"issuer"`
	Console           Console              `yaml:"console"`
	Audit             Audit                `yaml:"audit"`
	Policies          policies.Config      `yaml:"policies"`
	DefaultAPI        string               `yaml:"default_api"`
	ForwardCredential bool                 `yaml:"forward_credential"`
	AllowedHeaders    []string             `yaml:"allowed_headers"`
	Log               Log                  `yaml:"log"`
	APIs              map[string]authz.API `yaml:"apis"`
}

// Database is the section "database" of the configuration file.
type Database struct {
	URL                string          `yaml:"url"`
	FeedURL            string          `yaml:"feed_url"`
	Hints              bool            `yaml:"hints"`
	Pooler             database.Pooler `yaml:"pooler"`
	MaxOpenConnections int             `yaml:"max_open_connections"`
	LookupTimeout      time.Duration   `yaml:"lookup_timeout"`
}

// Cache is the section "cache" of the configuration file.
type Cache struct {
	MaxBytes       ByteSize      `yaml:"max_bytes"`
	StalenessBound time.Duration `yaml:"staleness_bound"`
	MaxAge         time.Duration `yaml:"max_age"`
	StaleIfError   time.Duration `yaml:"stale_if_error"`
}

// ByteSize is a size in bytes. Its text form is a number of bytes, or a number with a unit, such as 64MiB.
type ByteSize int64

// UnmarshalText implements [encoding.TextUnmarshaler].
func (b *ByteSize) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is not a number of bytes, such as 64MiB", text)
	}
	*b = ByteSize(n)
	return nil
}

// Listen is the section "listen" of the configuration file.
type Listen struct {
	GRPC       string        `yaml:"grpc"`
	Operations string        `yaml:"operations"`
	LameDuck   time.Duration `yaml:"lame_duck"`
	Drain      time.Duration `yaml:"drain"`
}

// Issuer is the section "issuer" of the configuration file: the configuration of `keywicket issuer`.
type Issuer struct {
	URL    string `yaml:"url"`
	Listen string `yaml:"listen"`
	API    string `yaml:"api"`
	Cookie string `yaml:"cookie"`
	SignIn string `yaml:"sign_in"`

	AddressLimit int `yaml:"address_limit"`
	ClientLimit  int `yaml:"client_limit"`

	ReuseWindow time.Duration `yaml:"reuse_window"`
}

// Audit is the section "audit" of the configuration file.
type Audit struct {
	// Keep is how long entries of the audit log are kept at least; 0: no entry expires.
	Keep time.Duration `yaml:"keep"`
}

// Log is the section "log" of the configuration file.
type Log struct {
	Level       string `yaml:"level"`
	Format      string `yaml:"format"`
	AllowSample int    `yaml:"allow_sample"`
}

// MinLevel returns the lowest level that is logged.
func (l Log) MinLevel() slog.Level { return levels[l.Level] }

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// Load returns the configuration. Flags override environment variables, environment variables override the file, and the file
// overrides the defaults. The parameter `flags` is a function that applies the command-line flags. It may be nil. The parameter
// `file` is the path of the configuration file. If the path is empty, Load reads no file.
func Load(file string, environ []string, flags func(*Config)) (Config, error) {
	if file == "" {
		return parse("", nil, environ, flags)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fmt.Errorf("the configuration file cannot be read: %w", err)
	}
	return parse(file, text, environ, flags)
}

// parse is Load for the text of a configuration file. If the name is empty, there is no file.
func parse(name string, text []byte, environ []string, flags func(*Config)) (Config, error) {
	var c Config
	if err := strictyaml.Decode(defaults, &c); err != nil {
		return c, fmt.Errorf("defaults.yaml: %w", err)
	}
	if name != "" {
		builtin := c.APIs
		c.APIs = nil
		if err := strictyaml.Decode(text, &c); err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
		if c.APIs == nil {
			c.APIs = builtin
		}
	}
	if err := applyEnvironment(&c, environ); err != nil {
		return c, err
	}
	if flags != nil {
		flags(&c)
	}
	return c, c.complete()
}

// apiName is the form of an API's name that the database accepts.
var apiName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// complete fills in the missing settings of each API with their defaults, and validates the configuration.
func (c *Config) complete() error {
	for _, name := range slices.Sorted(maps.Keys(c.APIs)) {
		if !apiName.MatchString(name) {
			return fmt.Errorf("apis: %q is not a valid name: write 1 to 63 letters, digits, _ or -, also as the name of its folder in the policies", name)
		}
		api, err := c.APIs[name].Complete()
		if err != nil {
			return fmt.Errorf("apis.%s.%w", name, err)
		}
		c.APIs[name] = api
	}
	_, knownLevel := levels[c.Log.Level]
	if err := c.Console.complete(); err != nil {
		return fmt.Errorf("console.%w", err)
	}
	switch {
	case c.Listen.GRPC == "":
		return errors.New("listen.grpc: empty; write host:port or unix:///path")
	case c.Listen.Operations == "":
		return errors.New("listen.operations: empty; write host:port or unix:///path")
	case !knownLevel:
		return fmt.Errorf("log.level: %q is not one of debug, info, warn, error", c.Log.Level)
	case !slices.Contains(database.Poolers(), c.Database.Pooler):
		return fmt.Errorf("database.pooler: %q is not one of auto, none, transaction", c.Database.Pooler)
	case c.Database.MaxOpenConnections < 1:
		return errors.New("database.max_open_connections: must be at least 1")
	case c.Database.LookupTimeout <= 0:
		return errors.New("database.lookup_timeout: must be more than 0, such as 200ms")
	case c.Cache.MaxBytes != 0 && (c.Cache.MaxBytes < cache.MinBytes || c.Cache.MaxBytes > 1<<40):
		return errors.New("cache.max_bytes: must be 0 for no cache, or from 1MiB to 1TiB")
	case c.Cache.StalenessBound < 100*time.Millisecond:
		return errors.New("cache.staleness_bound: must be at least 100ms, such as 1s")
	case c.Cache.MaxAge < c.Cache.StalenessBound:
		return errors.New("cache.max_age: must be at least cache.staleness_bound, such as 60s")
	case c.Cache.StaleIfError < 0:
		return errors.New("cache.stale_if_error: must be 0s (stale answers are never used), or a duration, such as 30s")
	case c.Listen.LameDuck < 0:
		return errors.New("listen.lame_duck: must be 0s (no lame-duck phase), or a duration, such as 5s")
	case c.Listen.Drain <= 0:
		return errors.New("listen.drain: must be more than 0, such as 5s")
	case c.Audit.Keep != 0 && c.Audit.Keep < 24*time.Hour:
		return errors.New("audit.keep: must be 0s (nothing expires), or a duration of at least 24h, such as 9600h for 400 days")
	case c.Log.AllowSample < 0:
		return errors.New("log.allow_sample: must be 0 (no allow is logged at level info), 1 (every allow), or N (one in N allows)")
	case c.Log.Format != "json" && c.Log.Format != "text":
		return fmt.Errorf("log.format: %q is neither json nor text", c.Log.Format)
	}
	return nil
}

// Warnings returns a warning for each setting that has no effect.
func (c *Config) Warnings() []string {
	withHosts := authz.MatchingAPIs(c.APIs, "", func(a authz.API) bool { return len(a.Hosts) > 0 })
	if c.DefaultAPI != "" && len(withHosts) > 0 {
		return []string{fmt.Sprintf("default_api is not used, because apis.%s.hosts is set", withHosts[0])}
	}
	return nil
}

// DatabaseURL returns the URL of the database, or an error if the URL is not set. The URL is the only setting without a usable
// default.
func (c *Config) DatabaseURL() (string, error) {
	if c.Database.URL == "" {
		return "", errors.New("the database URL is missing: set KEYWICKET_DATABASE_URL, or --database-url, or database.url in the file")
	}
	return c.Database.URL, nil
}

// SessionBytes returns the part of cache.max_bytes that is for verified sessions: an eighth. If less than [cache.MinBytes] would
// remain for the cache, the part is smaller. The part is 0 if no API has sessions. The remaining part is for the cache itself.
func (c *Config) SessionBytes() int64 {
	for _, api := range c.APIs {
		if api.Session.Issuer != "" {
			return min(int64(c.Cache.MaxBytes)/8, max(0, int64(c.Cache.MaxBytes)-cache.MinBytes))
		}
	}
	return 0
}

// applyEnvironment sets keys from environment variables, except keys whose value is a list. The variable's name comes from the
// key's path: KEYWICKET_LISTEN_GRPC sets listen.grpc, and KEYWICKET_APIS_VELOCITY_WORKSPACE_HEADER sets
// apis.velocity.workspace.header.
func applyEnvironment(c *Config, environ []string) error {
	variables := make(map[string]string)
	for _, entry := range environ {
		// Empty variables are ignored, because orchestrators create empty variables for settings without a value.
		if name, value, _ := strings.Cut(entry, "="); value != "" && strings.HasPrefix(name, "KEYWICKET_") {
			variables[name] = value
		}
	}
	return setFrom(variables, "KEYWICKET", reflect.ValueOf(c).Elem())
}

func setFrom(variables map[string]string, name string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			key := strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
			if err := setFrom(variables, name+"_"+key, v.Field(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		for _, key := range v.MapKeys() {
			entry := reflect.New(v.Type().Elem()).Elem()
			entry.Set(v.MapIndex(key))
			part := strings.ToUpper(strings.ReplaceAll(key.String(), "-", "_"))
			if err := setFrom(variables, name+"_"+part, entry); err != nil {
				return err
			}
			v.SetMapIndex(key, entry)
		}
		return nil
	case reflect.Slice:
		if _, ok := variables[name]; ok { // ignored, a limit would not apply
			return fmt.Errorf("%s: the key is a list: write it in the configuration file, because it has no variable", name)
		}
		return nil
	}
	text, ok := variables[name]
	if !ok {
		return nil
	}
	if err := setScalar(v, text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func setScalar(v reflect.Value, text string) error {
	switch target := v.Addr().Interface().(type) {
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration with a unit, such as 200ms or 0s", text)
		}
		*target = d
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		*target = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*target = n
	case encoding.TextUnmarshaler:
		return target.UnmarshalText([]byte(text))
	default:
		v.SetString(text)
	}
	return nil
}
