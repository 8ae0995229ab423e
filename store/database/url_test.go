package database_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"pgregory.net/rapid"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// forward accepts connections on the listener, and forwards their data to the server.
func forward(t *testing.T, l net.Listener) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = client.Close() }()
				backend, err := net.Dial("tcp", storetest.Server.Address())
				if err != nil {
					return
				}
				defer func() { _ = backend.Close() }()
				go func() { _, _ = io.Copy(backend, client) }()
				_, _ = io.Copy(client, backend)
			}()
		}
	}()
}

// expectConnects fails the test if a pool or the listener for notifications cannot reach the database with the URL.
func expectConnects(t *testing.T, databaseURL, name string) {
	t.Helper()
	for what, open := range map[string]func() (*sql.DB, error){
		"pool": func() (*sql.DB, error) {
			db, err := database.Open(databaseURL)
			if err != nil {
				return nil, err
			}
			return db.DB, nil
		},
		"feed": func() (*sql.DB, error) {
			dsn, err := database.DSN(databaseURL)
			if err != nil {
				return nil, err
			}
			return sql.Open("postgres", dsn)
		},
	} {
		db, err := open()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var got string
		err = db.QueryRowContext(t.Context(), `SELECT current_database() || ' ' || current_setting('timezone')`).Scan(&got)
		if err != nil || got != name+" UTC" {
			t.Errorf("%s: got %q, %v", what, got, err)
		}
		_ = db.Close()
	}
}

func TestURLIsReadLikePsql(t *testing.T) {
	target := storetest.EmptyDatabase(t)
	password, _ := storetest.Must(url.Parse(target)).User.Password()
	host, port, err := net.SplitHostPort(storetest.Server.Address())
	if err != nil {
		t.Fatal(err)
	}
	port6 := ""
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil { // some machines have no IPv6
		_, port6, _ = net.SplitHostPort(l.Addr().String())
		forward(t, l)
	}
	dir := t.TempDir()
	forward(t, storetest.Must(net.Listen("unix", filepath.Join(dir, ".s.PGSQL.7777"))))
	const odd = `a#:+,'\ &=%!*[`
	storetest.Must(storetest.OpenDB(t, target).ExecContext(t.Context(), `CREATE ROLE "o d" LOGIN PASSWORD `+pq.QuoteLiteral(odd)))
	t.Cleanup(func() {
		if err := storetest.Administer(context.Background(), `DROP ROLE "o d"`); err != nil {
			t.Error(err)
		}
	})
	replace := strings.NewReplacer("USER", "postgres:"+password, "PASSWORD", password, "HOST", host, "PORT6", port6, "PORT", port,
		"DB", storetest.DatabaseOf(target), "DIR", dir, "SOCKET", url.PathEscape(dir), "ODD", `o%20d:a#:+,'\%20&=%25!*[`)
	for name, form := range map[string]string{
		"one host":                             "postgres://USER@HOST:PORT/DB?sslmode=disable",
		"the scheme postgresql":                "postgresql://USER@HOST:PORT/DB?sslmode=disable",
		"second host of two":                   "postgres://USER@HOST:1,HOST:PORT/DB?sslmode=disable",
		"third host of three":                  "postgres://USER@HOST,[::1]:1,HOST:PORT/DB?sslmode=disable&connect_timeout=5",
		"one port, two hosts":                  "postgres://USER@[::1],HOST/DB?port=PORT&sslmode=disable",
		"two ports as an option":               "postgres://USER@HOST,HOST/DB?port=1,PORT&sslmode=disable",
		"the first port is empty":              "host=HOST,HOST port=,PORT user=postgres password=PASSWORD dbname=DB sslmode=disable",
		"IPv6":                                 "postgres://USER@[::1]:PORT6/DB?sslmode=disable",
		"IPv6 without a port":                  "postgres://USER@[::1]/DB?sslmode=disable&port=PORT6",
		"a socket":                             "postgres://USER@SOCKET:7777/DB",
		"a socket as an option":                "postgres://USER@/DB?host=DIR&port=7777",
		"options override the other parts":     "postgres://nobody:no@nowhere.invalid:1/no?host=HOST&port=PORT&user=postgres&password=PASSWORD&dbname=DB&sslmode=disable",
		"the last value of an option":          "postgres://USER@HOST:PORT/DB?sslmode=verify-full&sslmode=disable",
		"the last value of an option in pairs": "host=nowhere.invalid host = HOST port=PORT user='postgres' password='PASSWORD' dbname=DB sslmode=disable",
		"database instead of dbname":           "host=HOST port=PORT user=postgres password=PASSWORD database=DB sslmode=disable",
		"special characters in a URL":          "postgres://ODD@HOST:PORT/DB?sslmode=disable",
		"special characters in quotes":         `host=HOST port=PORT user='o d' password='a#:+,\'\\ &=%!*[' dbname=DB sslmode=disable`,
		"special characters without quotes":    `host=HOST port=PORT user=o\ d password=a#:+,\'\\\ &=%!*[ dbname=DB sslmode=disable`,
		"an empty value at the end":            "postgres://USER@HOST:PORT/DB?sslmode=disable&sslrootcert=",
		"an empty value in pairs":              "host=HOST port=PORT user=postgres password=PASSWORD dbname=DB sslmode=disable options=",
		"a blank in an option":                 "postgres://USER@HOST:PORT/DB?sslmode=disable&options=-c+statement_timeout%3D5s",
		"a time zone":                          "postgres://USER@HOST:PORT/DB?sslmode=disable&TimeZone=Asia/Tokyo&options=-ctimezone%3DAsia/Tokyo",
		"a search path":                        "postgres://USER@HOST:PORT/DB?sslmode=disable&search_path=a,b",
		"a date style":                         "postgres://USER@HOST:PORT/DB?sslmode=disable&DateStyle=ISO,+MDY",
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(form, "PORT6") && port6 == "" {
				t.Log("no IPv6 on this machine")
				return
			}
			expectConnects(t, replace.Replace(form), storetest.DatabaseOf(target))
		})
	}
}

// Every password reaches the server unchanged, and no error contains a part of the password.
func TestEveryPasswordReachesTheServer(t *testing.T) {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.StringMatching(`[^\x00]{1,12}`).Draw(t, "password")
		u := url.URL{Scheme: "postgres", User: url.UserPassword("u", password), Host: "h1:1,h2", Path: "/d"}
		for _, given := range []string{
			strings.Replace(u.String(), "h1:1,h2", "h1:1,[::1]", 1),
			"postgres://u@h/d?" + url.Values{"password": {password}}.Encode(),
			"host=h user=u password='" + quote.Replace(password) + "'",
		} {
			dsn, err := database.DSN(given)
			if err != nil {
				t.Fatalf("%s: %v", given, err)
			}
			if got := storetest.Must(pq.NewConfig(dsn)); got.Password != password || got.User != "u" {
				t.Errorf("%s: user %q, password %q", given, got.User, got.Password)
			}
		}
		// If the password is not escaped, the URL may be invalid.
		secret := "gehei" + password
		if _, err := database.DSN("postgres://u:" + secret + "@h/d"); err != nil && strings.Contains(err.Error(), "gehei") {
			t.Errorf("the error contains a part of the password: %v", err)
		}
	})
}

func TestInvalidURLIsRefused(t *testing.T) {
	for given, want := range map[string]string{
		"postgres://u:geheim@h1:5432,h2:heim/db":                      "cannot be parsed",
		"postgres://u:geheim@ge<heim/db":                              "cannot be parsed",
		"postgres://u:geheim@[geheim]/db":                             "cannot be parsed",
		"postgres://u:geheim@[::1/db":                                 "cannot be parsed",
		"postgres://u:geheim@[::1]x/db":                               "cannot be parsed",
		"postgres://u:geheim@::1/db":                                  "cannot be parsed",
		"postgres://u:12/geheim@h/db":                                 "cannot be parsed",
		"postgres://u:12?geheim@h/db":                                 "cannot be parsed",
		"postgres://u:ge%00heim@h/db":                                 "cannot be parsed",
		"postgres://u:geheim@h%zz/db":                                 "cannot be parsed",
		"postgres://u:geheim@h/db?sslmode=verify-full%zz":             "cannot be parsed",
		"postgres://u:geheim@h/db?sslmode":                            "cannot be parsed",
		"postgres://u:geheim@h/db?sslmode=verify-full;x=y":            "sslmode: write one of disable, ",
		"postgres://u:geheim@h/db?a%20b=c":                            "cannot be parsed",
		"postgres://u:geheim@%2Ftmp,h/db?sslmode=verify-full":         "sockets and other hosts",
		"postgres://u:geheim@h1,h2,h3:1/db?port=1,2":                  "could not match 2 port numbers to 3 hosts",
		"postgres://u:geheim@h/db?sslmode=require&sslrootcert=system": "weak sslmode",
		"postgres://u:geheim@h/db?client_encoding=LATIN1":             "wrong value for client_encoding",
		"postgres://u:geheim@h/db?DateStyle=SQL":                      "wrong value for datestyle",
		"host=h password=geheim port='1":                              "cannot be parsed",
		`host=h password=geheim\`:                                     "cannot be parsed",
		"host=h password=geheim heim":                                 "cannot be parsed",
		"host=h =geheim":                                              "cannot be parsed",
		"jdbc:postgresql://h/db?user=u&password=geheim":               "not for Postgres",
		"postgresql+asyncpg://u:geheim@h/db":                          "not for Postgres",
	} {
		_, err := database.DSN(given)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "heim") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", given, err, want)
		}
	}
}

func TestInvalidEnvironmentIsRefused(t *testing.T) {
	for entry, want := range map[string]string{
		"PGHOST=h1,h2":           "unset the variable",
		"PGPORT=1,2":             "unset the variable",
		"PGHOSTADDR=1.2.3.4,::1": "PGHOSTADDR is a list",
		"PGSSLMODE=never":        "the environment variable PGSSLMODE has a wrong value: write one of disable, ",
		"PGPORT=none":            "the environment variable PGPORT has a wrong value",
		"PGCHANNELBINDING=x":     "the environment variable PGCHANNELBINDING is not supported",
		"PGSERVICE=none":         "the service none, which PGSERVICE or the database URL names, is not in ",
	} {
		t.Run(entry, func(t *testing.T) {
			name, value, _ := strings.Cut(entry, "=")
			t.Setenv(name, value)
			if _, err := database.DSN("host=h hostaddr=127.0.0.1 port=5433"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

// The order of precedence is the same as in libpq: first the URL, then the service, then the environment.
func TestURLOverridesTheService(t *testing.T) {
	target, other := storetest.EmptyDatabase(t), storetest.EmptyDatabase(t)
	u := storetest.Must(url.Parse(target))
	password, _ := u.User.Password()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	wrong := "# all values are wrong\n[other]\nhost=elsewhere.invalid\n\n [ app ]\nhost = nowhere.invalid\nport=1\nuser=nobody\npassword=no\n" +
		"dbname=nowhere\nsslmode=verify-full\n[last]\nnot an option\n"
	right := "[app]\nhost=" + u.Hostname() + "\nport=" + u.Port() + "\nuser=postgres\npassword=" + password + "\ndbname=" + storetest.DatabaseOf(target) +
		"\nsslmode=disable\nconnection_limit=7\n"
	for name, c := range map[string]struct {
		service, url string
		environment  []string
	}{
		"a complete URL overrides the service": {wrong, target, []string{"PGSERVICE=app"}},
		"complete pairs override the service": {wrong, "host=" + u.Hostname() + " port=" + u.Port() + " user=postgres password=" + password + " dbname=" + storetest.DatabaseOf(target) +
			" sslmode=disable", []string{"PGSERVICE=app"}},
		"only the service":                       {right, "service=app", nil},
		"service as an option of the URL":        {right, "postgres:///?service=app", nil},
		"URL overrides PGSERVICE":                {right, "service=app", []string{"PGSERVICE=last"}},
		"service overrides the environment":      {right, "postgres://", []string{"PGSERVICE=app", "PGDATABASE=no", "PGPASSWORD=no", "PGUSER=no", "PGHOST=no.invalid"}},
		"URL overrides an option of the service": {strings.Replace(right, storetest.DatabaseOf(target), storetest.DatabaseOf(other), 1), "dbname=" + storetest.DatabaseOf(target), []string{"PGSERVICE=app"}},
		"a file that the URL names":              {"", "service=app servicefile=" + write("named.conf", right), []string{"PGSERVICEFILE=nowhere"}},
		"the system's file":                      {"", "service=app", []string{"PGSYSCONFDIR=" + filepath.Dir(write("pg_service.conf", right))}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PGSERVICEFILE", write("service.conf", c.service))
			for _, entry := range c.environment {
				name, value, _ := strings.Cut(entry, "=")
				t.Setenv(name, value)
			}
			expectConnects(t, c.url, storetest.DatabaseOf(target))
		})
	}
	for name, c := range map[string]struct{ service, url, want string }{
		"an unknown service":             {right, "service=none", "the service none, "},
		"a line without an equals sign":  {"[app]\npassword=geheim\ngeheim\n", "service=app", "line 3: the line is not OPTION=VALUE"},
		"a reference to another service": {"[app]\nservice=other\n", "service=app", "line 2: a service cannot refer to another service"},
		"an LDAP server":                 {"[app]\nldap://h/dn?x=y\n", "service=app", "line 2: the line is not OPTION=VALUE"},
		"an option with a space":         {"[app]\na b=geheim\n", "service=app", "has an invalid character"},
		"an unsupported feature":         {"[app]\nrequire_auth=scram-sha-256\n", "service=app", "require_auth, which keywicket does not support"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PGSERVICEFILE", write("service.conf", c.service))
			if _, err := database.DSN(c.url); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Hosting providers and other tools add their own options to a URL. keywicket either accepts such an option, or rejects it with a
// message of one line.
func TestOptionsOfOtherDrivers(t *testing.T) {
	f := storetest.NewFixture(t)
	for option, want := range map[string]string{
		"channel_binding=prefer": "", "channel_binding=disable": "",
		"channel_binding=require": "has channel_binding=require, which keywicket does not support: write sslmode=verify-full instead, with sslrootcert=system",
		"keepalives=0":            "", "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3": "",
		"keepalives_idle=soon": "wrong value for keepalives_idle", "tcp_user_timeout=5000": "", "tcp_user_timeout=x": "wrong value for tcp_user_timeout",
		"pgbouncer=true": "", "pgbouncer=false": "", "pgbouncer=maybe": "wrong value for pgbouncer",
		"gssencmode=disable": "", "gssencmode=prefer": "", "gssencmode=require": "gssencmode=require, which keywicket does not support",
		"sslcertmode=allow": "", "sslcertmode=disable": "sslcertmode, which", "sslcertmode=require": "sslcertmode=require, which",
		"sslcrl=/f": "sslcrl, which", "sslcrldir=/f": "sslcrldir, which", "requirepeer=postgres": "requirepeer, which",
		"require_auth=scram-sha-256": "write sslmode=verify-full instead", "sslpassword=geheim": "without a passphrase", "oauth_client_secret=geheim": "log in with a password",
		"sslcompression=0": "", "gssdelegation=0": "", "krbsrvname=postgres": "", "requiressl=1": "write sslmode=require",
		"replication=database": "replication, which", "replication=false": "", "min_protocol_version=3.0": "",
		"ssl=true": "", "ssl=require": "write sslmode instead",
		"connection_limit=1&pool_timeout=0&socket_timeout=10&schema=public&statement_cache_size=0": "",
		"sslaccept=accept_invalid_certs": "", "sslaccept=strict": "sslaccept=strict, which keywicket does not support: write sslmode=verify-full",
		"sslidentity=/f": "write sslcert and sslkey",
		"statement_cache_mode=describe&default_query_exec_mode=exec": "", "pool_max_conns=10&pool_min_conns=1": "",
		"prepareThreshold=0&preparedStatementCacheQueries=0": "", "targetServerType=primary": "", "targetServerType=any": "write target_session_attrs=primary",
		"supa=base-pooler.x": "", "uselibpqcompat=true": "",
		"target_session_attrs=read-write": "", "target_session_attrs=primary": "", "target_session_attrs=any": "write target_session_attrs=primary",
		"load_balance_hosts=random": "", "application_name=mine": "", "fallback_application_name=mine": "", "client_encoding=UTF8": "",
		"options=-c%20work_mem%3D8MB": "", "search_path=public": "", "work_mem=8MB": "", "custom.name=x": "", "connect_timeout=5": "",
		"prepared=no":              "the database URL has the option prepared, which Postgres does not support: remove it",
		"options=-c%20no_such%3D1": "the database URL has the option no_such, which Postgres does not support: remove it",
		"SSLMODE=disable":          "the database URL has the option SSLMODE, which Postgres does not support: remove it",
		"sslmode=no-verify":        "wrong value for sslmode: write one of disable, ",
		"sslmode=require":          "add sslmode=disable to the URL if the network is trusted",
		"channel_binding=require&sslmode=verify-full": "the server has no TLS",
		"sslaccept=strict&sslmode=verify-full":        "the server has no TLS",
	} {
		t.Run(option, func(t *testing.T) {
			r, err := registry.Open(t.Context(), f.URL+"&"+option)
			if err == nil {
				_ = r.Close()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
			if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("the error has more than one line, or a secret: %v", err)
			}
		})
	}
}

// If the server has no TLS, every function that connects returns an error with a remedy.
func TestMissingTLSIsReportedByEveryFunction(t *testing.T) {
	databaseURL := storetest.WithOption(storetest.EmptyDatabase(t), "sslmode", "")
	d := storetest.Must(directory.Open(directory.Config{URL: databaseURL, LookupTimeout: 10 * time.Second, NoCache: true}, nil))
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	for name, f := range map[string]func() error{
		"migrate up":     func() error { _, err := schema.Migrate(t.Context(), storetest.OpenDB(t, databaseURL)); return err },
		"migrate status": func() error { _, err := schema.Status(t.Context(), storetest.OpenDB(t, databaseURL)); return err },
		"a registry":     func() error { _, err := registry.Open(t.Context(), databaseURL); return err },
		"a directory":    func() error { return d.Ready(t.Context()) },
	} {
		if err := f(); !errors.Is(err, pq.ErrSSLNotSupported) || !strings.Contains(err.Error(), "add sslmode=disable to the URL if the network is trusted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSupportedOptions(t *testing.T) {
	for option, want := range map[string]net.KeepAliveConfig{
		"":             {Enable: true},
		"keepalives=1": {Enable: true},
		"keepalives=0": {},
		"keepalives_idle=30&keepalives_interval=10&keepalives_count=3": {Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3},
		"keepalives_idle=0&keepalives_count=0":                         {Enable: true, Idle: -time.Second, Count: -1},
	} {
		if _, got, err := database.ReadURL("postgres://h/d?" + option); err != nil || got != want {
			t.Errorf("%s: %+v, %v", option, got, err)
		}
	}
	for option, want := range map[string]bool{"": false, "pgbouncer=true": true, "pgbouncer=false": false} {
		if got, _, err := database.ReadURL("postgres://h/d?" + option); err != nil || got != want {
			t.Errorf("%s: pooled %v, %v", option, got, err)
		}
	}
}

// The server of the tests cannot send these messages, because some are in another language, and some come from a pooler.
func TestConnectionErrorsContainCauseAndRemedy(t *testing.T) {
	for want, err := range map[string]error{
		"has the option schemas, which":        &pq.Error{Code: pqerror.UndefinedObject, Message: "unbekannter Konfigurationsparameter »schemas«"},
		"has the option work.mem, which":       &pq.Error{Code: pqerror.UndefinedObject, Message: "paramètre de configuration « work.mem » non reconnu"},
		"has an option that Postgres":          &pq.Error{Code: pqerror.UndefinedObject, Message: "?"},
		"does not accept the option geqo: ":    &pq.Error{Code: pqerror.ProtocolViolation, Message: "unsupported startup parameter: geqo"},
		"does not accept the option work_mem:": &pq.Error{Code: pqerror.ProtocolViolation, Message: "unsupported startup parameter in options: work_mem"},
	} {
		got := database.ConnectError(err)
		if !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	for _, err := range []error{nil, io.EOF, &pq.Error{Code: pqerror.InvalidPassword, Message: "password"}} {
		if got := database.ConnectError(err); got != err { //nolint:errorlint // the function must return the same error value
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestOldPostgresIsRefused(t *testing.T) {
	for number, want := range map[int]string{
		90624: "the server is Postgres 9.6.24: keywicket needs 14 or later", 130021: "the server is Postgres 13.21: ", 139999: "13.", 140000: "", 180003: "",
	} {
		err := database.CheckVersion(number)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", number, err)
		}
	}
}

// For every form of a URL, the configuration of the listener has an application name, and requires the primary server.
func TestListenerDSN(t *testing.T) {
	for given, want := range map[string]pq.Config{
		"postgres://u:p%23@h/d": {Host: "h", User: "u", Password: "p#", Database: "d", ApplicationName: "keywicket", TargetSessionAttrs: "primary"},
		"postgres://u@h/d?target_session_attrs=read-write&application_name=mine": {Host: "h", User: "u", Database: "d", ApplicationName: "mine",
			TargetSessionAttrs: "read-write"},
		"host=h user=u password=":      {Host: "h", User: "u", ApplicationName: "keywicket", TargetSessionAttrs: "primary"},
		"host=h user=u password=a://b": {Host: "h", User: "u", Password: "a://b", ApplicationName: "keywicket", TargetSessionAttrs: "primary"},
	} {
		dsn, err := database.DSN(given)
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		got := storetest.Must(pq.NewConfig(dsn))
		got = pq.Config{Host: got.Host, User: got.User, Password: got.Password, Database: got.Database, ApplicationName: got.ApplicationName,
			TargetSessionAttrs: got.TargetSessionAttrs}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", given, got)
		}
	}
	for _, replica := range []string{"postgres://h/d?target_session_attrs=any", "host=h target_session_attrs=standby"} {
		if _, err := database.DSN(replica); err == nil || !strings.Contains(err.Error(), "write target_session_attrs=primary") {
			t.Errorf("%s: %v", replica, err)
		}
	}
}
