package config

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/store/database"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keywicket.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Without a file, variables and flags, Load returns the documented defaults.
func TestDefaults(t *testing.T) {
	velocitySession := noSessions
	velocitySession.ClientIDs = []string{}
	velaflowsSession := noSessions
	velaflowsSession.ConsoleOnly, velaflowsSession.Scopes = true, []string{"admin:all", "workspaces:list"}
	got, err := Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want Config
	want.Database.Hints = true
	want.Database.Pooler = database.PoolerAuto
	want.Database.MaxOpenConnections = 8
	want.Database.LookupTimeout = 200 * time.Millisecond
	want.Cache = Cache{MaxBytes: 64 << 20, StalenessBound: time.Second, MaxAge: time.Minute}
	want.Listen = Listen{GRPC: "127.0.0.1:9001", Operations: "127.0.0.1:9002", LameDuck: 5 * time.Second, Drain: 5 * time.Second}
	want.Issuer = Issuer{Listen: "127.0.0.1:9003", API: "velocity", AddressLimit: 1200, ClientLimit: 12000, ReuseWindow: 10 * time.Second}
	want.Console = Console{Listen: "127.0.0.1:9004", Path: "/settings", AddressLimit: 1200, APIs: map[string]ConsoleAPI{
		"velaflows": {Pages: ConsolePages{WorkspaceTokens: "Developer > API Tokens"}},
		"velocity":  {Pages: ConsolePages{WorkspaceTokens: "API Keys", PersonalKeys: "Account > Personal API Keys", Apps: "OAuth Apps"}},
	}}
	want.AllowedHeaders = []string{}
	want.Log = Log{Level: "info", Format: "json", AllowSample: 100}
	want.APIs = map[string]authz.API{
		"velaflows": {
			Hosts:     []string{},
			Workspace: authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID, Required: true},
			Credentials: []authz.CredentialFormat{
				{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live, VisiblePrefix: 16, BodyLength: 40},
				{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox, VisiblePrefix: 16, BodyLength: 40},
			},
			Session: velaflowsSession, Denials: []authz.DeclaredDenial{}, UpstreamHeaders: []string{}, TokenLimits: tokenlimit.Limits{OverrideRoles: []string{}},
		},
		"velocity": {
			Hosts:     []string{},
			Workspace: authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
			Credentials: []authz.CredentialFormat{
				{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38},
				{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
				{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
			},
			Session: velocitySession, Denials: []authz.DeclaredDenial{}, UpstreamHeaders: []string{}, TokenLimits: tokenlimit.Limits{OverrideRoles: []string{}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// noSessions is the session format without an issuer. Its other settings have their default values.
var noSessions = authz.SessionFormat{Audience: "authenticated", JWKSMaxAge: time.Hour, Leeway: 10 * time.Second, RequireAAL2: authz.SecondFactorNever, Scopes: []string{"admin"}}

// Each key has an environment variable, except keys whose value is a list. The variable changes only this key.
func TestEveryScalarHasAVariable(t *testing.T) {
	settings := map[string]string{ // key → a value that is not the default
		"database.url": "postgres://x", "database.max_open_connections": "9", "database.lookup_timeout": "123ms",
		"database.hints": "false", "database.pooler": "transaction", "database.feed_url": "postgres://y",
		"cache.max_bytes": "2097152", "cache.staleness_bound": "2s", "cache.max_age": "50s", "cache.stale_if_error": "4s",
		"listen.grpc": "unix:///g", "listen.operations": "127.0.0.1:3", "listen.lame_duck": "6s", "listen.drain": "7s",
		"issuer.url": "https://u", "issuer.listen": "127.0.0.1:4", "issuer.api": "velaflows", "issuer.cookie": "c", "issuer.sign_in": "https://s",
		"issuer.address_limit": "7", "issuer.client_limit": "8", "issuer.reuse_window": "9s",
		"console.listen": "127.0.0.1:5", "console.path": "/account", "console.address_limit": "6", "console.scanner.keys_url": "https://r", "audit.keep": "48h0m0s",
		"policies.dir": "/p", "default_api": "velocity", "forward_credential": "true",
		"log.level": "debug", "log.format": "text", "log.allow_sample": "7",
		"apis.velaflows.workspace.header": "x-a", "apis.velaflows.workspace.by": "slug", "apis.velaflows.workspace.required": "false",
		"apis.velocity.workspace.header": "x-b", "apis.velocity.workspace.by": "id", "apis.velocity.workspace.required": "true",
	}
	var issuers []string // an API without an issuer must not have other session settings, and pages need all of their settings
	for _, api := range []string{"VELAFLOWS", "VELOCITY"} {
		issuers = append(issuers, "KEYWICKET_APIS_"+api+"_SESSION_ISSUER=https://i", "KEYWICKET_APIS_"+api+"_SESSION_JWKS_URL=https://j",
			"KEYWICKET_CONSOLE_APIS_"+api+"_URL=https://m-"+api, "KEYWICKET_CONSOLE_APIS_"+api+"_COOKIE=n", "KEYWICKET_CONSOLE_APIS_"+api+"_SIGN_IN=https://o")
		path := "apis." + strings.ToLower(api) + ".session."
		maps.Copy(settings, map[string]string{
			"apis." + strings.ToLower(api) + ".token_limits.max_lifetime": "1h0m0s", "apis." + strings.ToLower(api) + ".token_limits.expiry_required": "true",
		})
		page := "console.apis." + strings.ToLower(api) + "."
		maps.Copy(settings, map[string]string{
			page + "url": "https://p-" + strings.ToLower(api), page + "cookie": "d", page + "sign_in": "https://q",
			page + "pages.workspace_tokens": "A > B", page + "pages.personal_keys": "C", page + "pages.apps": "D",
		})
		maps.Copy(settings, map[string]string{
			path + "issuer": "https://k", path + "audience": "a", path + "jwks_url": "https://l", path + "jwks_max_age": "2h0m0s",
			path + "leeway": "3s", path + "shared_clock": "true", path + "anonymous": "true", path + "require_aal2": "enrolled",
			path + "console_only": map[string]string{"VELAFLOWS": "false", "VELOCITY": "true"}[api],
		})
	}
	before := settingsOf(t, issuers)
	for name := range before { // the YAML text never contains a secret, so TestSessionSettings tests this key
		if strings.HasSuffix(name, ".hs256_secret") {
			delete(before, name)
		}
	}
	if got, want := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(settings)); !slices.Equal(got, want) {
		t.Fatalf("got the keys %v, want %v", got, want)
	}
	for key, value := range settings {
		variable := "KEYWICKET_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		after := settingsOf(t, append(slices.Clone(issuers), variable+"="+value))
		if after[key] != value {
			t.Errorf("%s=%s sets %s to %q", variable, value, key, after[key])
		}
		for other := range before {
			if other != key && after[other] != before[other] {
				t.Errorf("%s changes %s", variable, other)
			}
		}
	}
}

// A list has no variable. A variable with the name of a list is an error, because the process would start without a limit that the
// operator has set.
func TestListsHaveNoVariable(t *testing.T) {
	for _, name := range []string{"KEYWICKET_APIS_VELOCITY_TOKEN_LIMITS_OVERRIDE_ROLES", "KEYWICKET_APIS_VELOCITY_SESSION_CLIENT_IDS", "KEYWICKET_APIS_VELAFLOWS_HOSTS"} {
		_, err := Load("", []string{name + "=owner"}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), name+": the key is a list") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Load("", []string{name + "="}, nil); err != nil {
			t.Errorf("%s, empty: %v", name, err)
		}
	}
}

func TestSessionSettings(t *testing.T) {
	const secret = "a secret of thirty-two characters and more"
	environ := []string{"KEYWICKET_APIS_VELOCITY_SESSION_ISSUER=https://i", "KEYWICKET_APIS_VELOCITY_SESSION_HS256_SECRET=" + secret}
	c, err := Load("", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := c.APIs["velocity"].Session
	if f.HS256Secret.Reveal() != secret || f.Audience != "authenticated" || f.Leeway != 10*time.Second || f.JWKSMaxAge != time.Hour {
		t.Errorf("got %+v", f)
	}
	file := configFile(t, "apis:\n  a:\n    workspace: {header: x, by: slug}\n    credentials: [{kind: workspace_key, prefix: a_}]\n"+
		"    session: {issuer: i, jwks_url: \"https://j\", scopes: [all]}\n")
	if c, err = Load(file, nil, nil); err != nil {
		t.Fatal(err)
	}
	if f := c.APIs["a"].Session; f.Audience != "authenticated" || f.Leeway != 10*time.Second || !slices.Equal(f.Scopes, []string{"all"}) {
		t.Errorf("got %+v", f)
	}
	for want, settings := range map[string][]string{
		"session.issuer: set the issuer":                 {"JWKS_URL=https://j"},
		"session.jwks_url: tokens cannot be":             {"ISSUER=https://i"},
		"session.hs256_secret: a secret of less than 32": {"ISSUER=https://i", "HS256_SECRET=" + secret[:31]},
		"session.jwks_url: not an http":                  {"ISSUER=https://i", "JWKS_URL=keys.json"},
		"session.jwks_max_age: 3s is less than 4s":       {"ISSUER=https://i", "JWKS_URL=https://j", "JWKS_MAX_AGE=3s"},
		"session.leeway: 6m0s is not between":            {"ISSUER=https://i", "JWKS_URL=https://j", "LEEWAY=6m"},
		"SESSION_LEEWAY: \"10\" is not a duration":       {"ISSUER=https://i", "JWKS_URL=https://j", "LEEWAY=10"},
	} {
		for i := range settings {
			settings[i] = "KEYWICKET_APIS_VELOCITY_SESSION_" + settings[i]
		}
		if _, err := Load("", settings, nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret[:31]) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

// settingsOf returns the value of every key by the path of the key. It omits keys whose value is a list.
func settingsOf(t *testing.T, environ []string) map[string]string {
	t.Helper()
	c, err := Load("", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	settings := make(map[string]string)
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		switch n.Kind {
		case yaml.ScalarNode:
			settings[path] = n.Value
		case yaml.MappingNode:
			for pair := range slices.Chunk(n.Content, 2) {
				walk(strings.TrimPrefix(path+"."+pair[0].Value, "."), pair[1])
			}
		}
	}
	walk("", document.Content[0])
	return settings
}

const shop = `apis:
  my-shop:
    workspace: {header: X-Shop, by: slug}
    credentials:
      - {kind: workspace_key, prefix: shop_}
`

func TestAPIsOfAFileReplaceAllDefaults(t *testing.T) {
	c, err := Load(configFile(t, shop), []string{"KEYWICKET_APIS_MY_SHOP_WORKSPACE_REQUIRED=true"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]authz.API{"my-shop": {
		Workspace: authz.WorkspaceHeader{Header: "x-shop", By: authz.BySlug, Required: true},
		Credentials: []authz.CredentialFormat{
			{Kind: authz.KindWorkspaceKey, Prefix: "shop_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
		},
		Session: noSessions,
	}}
	if !reflect.DeepEqual(c.APIs, want) {
		t.Errorf("got %+v, want %+v", c.APIs, want)
	}
	for _, text := range []string{"", "# nothing\n", "log: {format: text}\n", "apis:\n"} {
		if c, err = Load(configFile(t, text), nil, nil); err != nil || len(c.APIs) != 2 {
			t.Errorf("%q: %d APIs, %v", text, len(c.APIs), err)
		}
	}
}

func TestInvalidConfigurationIsRefused(t *testing.T) {
	for _, test := range []struct {
		name, file string
		environ    []string
		want       string
	}{
		{name: "an unknown key", file: "log: {format: text}\nlisten:\n  gprc: x\n", want: `line 3: unknown key "gprc"`},
		{name: "an unknown section", file: "\n\nlistener: {}\n", want: `line 3: unknown key "listener"`},
		{name: "an unknown key of a credential", file: strings.Replace(shop, "kind:", "kinds:", 1), want: `line 5: unknown key "kinds"`},
		{name: "a key twice", file: "listen: {}\nlisten: {}\n", want: "line 2"},
		{name: "a second document", file: "listen: {}\n---\nlisten: {}\n", want: "second document"},
		{name: "a syntax error of YAML", file: "listen: {\n", want: "line"},
		{name: "an invalid duration", file: "listen:\n  drain: soon\n", want: "line 2: `soon` is not a duration with a unit, such as 200ms or 0s"},
		{name: "an invalid number", file: "database:\n  max_open_connections: many\n", want: "line 2: `many` is not a whole number"},
		{name: "an invalid boolean", file: "forward_credential: perhaps\n", want: "line 1: `perhaps` is not true or false"},
		{name: "an unknown log level", file: "log: {level: loud}\n", want: "loud"},
		{name: "an unknown log format", file: "log: {format: xml}\n", want: `log.format: "xml" is neither json nor text`},
		{name: "no connections", file: "database: {max_open_connections: 0}\n", want: "database.max_open_connections: must be at least 1"},
		{name: "a negative look-up timeout", file: "database: {lookup_timeout: -1s}\n", want: "database.lookup_timeout: must be more than 0"},
		{name: "a cache that is too small", file: "cache: {max_bytes: 64KiB}\n", want: "cache.max_bytes: must be 0 for no cache, or from 1MiB to 1TiB"},
		{name: "a cache that is too large", file: "cache: {max_bytes: 7EiB}\n", want: "cache.max_bytes: must be 0 for no cache, or from 1MiB to 1TiB"},
		{name: "a cache size that is not a number", file: "cache: {max_bytes: much}\n", want: `"much" is not a number of bytes, such as 64MiB`},
		{name: "a variable with a cache size that is not a number", environ: []string{"KEYWICKET_CACHE_MAX_BYTES=much"}, want: `KEYWICKET_CACHE_MAX_BYTES: "much" is not a number of bytes, such as 64MiB`},
		{name: "a staleness bound of zero", file: "cache: {staleness_bound: 0s}\n", want: "cache.staleness_bound: must be at least 100ms"},
		{name: "a maximum age below the staleness bound", file: "cache: {max_age: 500ms}\n", want: "cache.max_age: must be at least cache.staleness_bound"},
		{name: "a negative stale_if_error", file: "cache: {stale_if_error: -1s}\n", want: "cache.stale_if_error: "},
		{name: "a negative lame duck", file: "listen: {lame_duck: -1s}\n", want: "listen.lame_duck: must be 0s (no lame-duck phase), or a duration"},
		{name: "a short audit log", file: "audit: {keep: 23h59m}\n", want: "audit.keep: must be 0s (nothing expires), or a duration of at least 24h"},
		{name: "a negative time for the audit log", file: "audit: {keep: -48h}\n", want: "audit.keep: must be 0s"},
		{name: "a drain of zero", file: "listen: {drain: 0s}\n", want: "listen.drain: must be more than 0"},
		{name: "an API's name that the database refuses", file: strings.Replace(shop, "my-shop:", "My Shop:", 1), want: `apis: "My Shop" is not a valid name: write 1 to 63 letters, digits, _ or -`},
		{name: "no workspace header", file: strings.Replace(shop, "header: X-Shop, ", "", 1), want: "apis.my-shop.workspace.header: "},
		{name: "a workspace that is requested by its name", file: strings.Replace(shop, "by: slug", "by: name", 1), want: `apis.my-shop.workspace.by: "name" is neither id nor slug`},
		{name: "no credentials", file: strings.Join(strings.SplitAfter(shop, "\n")[:3], ""), want: "apis.my-shop.credentials: none"},
		{name: "an unknown kind", file: strings.Replace(shop, "workspace_key", "key", 1), want: `apis.my-shop.credentials[0].kind: "key" is not one of workspace_token, workspace_key, personal_key`},
		{name: "no prefix", file: strings.Replace(shop, ", prefix: shop_", "", 1), want: "apis.my-shop.credentials[0].prefix: "},
		{name: "two kinds with one prefix", file: shop + "      - {kind: personal_key, prefix: shop_}\n", want: `apis.my-shop.credentials[1].prefix: "shop_" occurs twice`},
		{name: "keys that can be guessed", file: strings.Replace(shop, "shop_}", "shop_, body_length: 20}", 1), want: "apis.my-shop.credentials[0].body_length: 20 is less than 38"},
		{name: "a visible secret", file: strings.Replace(shop, "shop_}", "shop_, visible_prefix: 30}", 1), want: "apis.my-shop.credentials[0].visible_prefix: 30 is not between"},
		{name: "a denial with the status 200", file: shop + "    denials: [{code: PAID, reason: unpaid, status: 200, message: m}]\n", want: `apis.my-shop.denials[0].status: 200 is not from 400 to 499`},
		{name: "an unknown key of a denial", file: shop + "    denials:\n      - {code: PAID, cause: unpaid}\n", want: `line 7: unknown key "cause"`},
		{name: "an invalid retry_after of a denial", file: shop + "    denials:\n      - {code: PAID, reason: unpaid, status: 402, message: m, retry_after: soon}\n", want: "line 7: `soon` is not a duration"},
		{name: "a header that no policy may set", file: shop + "    upstream_headers: [x-shop]\n", want: `apis.my-shop.upstream_headers[0]: "x-shop" is the API's workspace header`},
		{name: "an unknown environment", file: strings.Replace(shop, "shop_}", "shop_, environment: test}", 1), want: `apis.my-shop.credentials[0].environment: "test" is neither live nor sandbox`},

		{name: "a variable with an invalid duration", environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=200"}, want: `KEYWICKET_DATABASE_LOOKUP_TIMEOUT: "200" is not a duration with a unit, such as 200ms or 0s`},
		{name: "a variable with an invalid number", environ: []string{"KEYWICKET_DATABASE_MAX_OPEN_CONNECTIONS=8.5"}, want: `KEYWICKET_DATABASE_MAX_OPEN_CONNECTIONS: "8.5" is not a whole number`},
		{name: "a variable with an invalid boolean", environ: []string{"KEYWICKET_FORWARD_CREDENTIAL=perhaps"}, want: `KEYWICKET_FORWARD_CREDENTIAL: "perhaps" is not true or false`},
		{name: "an empty listen address", file: "listen: {grpc: ''}", want: `listen.grpc: empty; write host:port or unix:///path`},
		{name: "a negative sample", file: "log: {allow_sample: -1}", want: `log.allow_sample: `},
		{name: "a variable with an unknown log level", environ: []string{"KEYWICKET_LOG_LEVEL=loud"}, want: `log.level: "loud" is not one of debug, info, warn, error`},
		{name: "a variable with an invalid setting of an API", environ: []string{"KEYWICKET_APIS_VELOCITY_WORKSPACE_BY=name"}, want: `apis.velocity.workspace.by: "name" is neither id nor slug`},
		{name: "an invalid variable that overrides the file", file: "log: {format: text}\n", environ: []string{"KEYWICKET_LOG_FORMAT=xml"}, want: `log.format: "xml"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := configFile(t, test.file)
			_, err := Load(file, test.environ, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if strings.Contains(test.want, "line") && !strings.HasPrefix(err.Error(), file+": ") {
				t.Errorf("the error does not contain the file name: %v", err)
			}
		})
	}
}
