package database_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/modulefile"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(name string) authority {
	a := authority{key: storetest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate = storetest.Must(x509.ParseCertificate(storetest.Must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))))
	return a
}

func pemOf(kind string, bytes []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
}

func (a authority) pem() string { return pemOf("CERTIFICATE", a.certificate.Raw) }

// sign returns a certificate for a host name or an IP address, and the certificate's key.
func (a authority) sign(host string, until time.Time) (certificate, key string) {
	k := storetest.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	raw := storetest.Must(x509.CreateCertificate(rand.Reader, template, a.certificate, k.Public(), a.key))
	return pemOf("CERTIFICATE", raw), pemOf("PRIVATE KEY", storetest.Must(x509.MarshalPKCS8PrivateKey(k)))
}

// cluster is a separate Postgres server. After a call of setCertificate, the server uses TLS.
type cluster struct {
	*storetest.Fixture
	server *postgres.Server
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	s := storetest.Must(postgres.Start(t.Context(), postgres.Config{}))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &cluster{storetest.FixtureAt(t, s.URL("postgres")), s}
}

// setCertificate installs a certificate for the host on the server. New connections to the server use this certificate.
func (c *cluster) setCertificate(t *testing.T, signer authority, host string, until time.Time) {
	t.Helper()
	certificate, key := signer.sign(host, until)
	c.write(t, "server.key", key)
	c.write(t, "server.crt", certificate)
	c.Exec(t, `ALTER SYSTEM SET ssl = on`)
	c.reload(t)
}

// write writes a file to the data folder of the server, as the server's operating system user.
func (c *cluster) write(t *testing.T, name, content string) {
	t.Helper()
	c.Exec(t, `COPY (SELECT string_to_table(`+pq.QuoteLiteral(strings.TrimSpace(content))+`, E'\n')) TO PROGRAM 'umask 077; cat > `+name+`'`)
}

func (c *cluster) reload(t *testing.T) {
	t.Helper()
	before := storetest.Value[time.Time](t, c.DB, `SELECT pg_conf_load_time()`)
	c.Exec(t, `SELECT pg_reload_conf()`)
	// The postmaster reads the settings first, and a new connection gets its settings from the postmaster. So when a new
	// connection has the new settings, the postmaster has read the files.
	storetest.Eventually(t, "the settings are read", func() bool {
		return storetest.Value[time.Time](t, storetest.OpenDB(t, c.server.URL("postgres")), `SELECT pg_conf_load_time()`).After(before)
	})
}

// cut closes the login's connections.
func (c *cluster) cut(t *testing.T, login string) {
	t.Helper()
	if n := storetest.Value[int](t, c.DB, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1`, login); n < 2 {
		t.Errorf("there were only %d connections: the test proves nothing", n)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// The sidecar reads the password and the certificate of the authority again for each new connection. So it needs no restart if
// one of these files changes.
func TestChangedPasswordAndAuthorityAreUsed(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	passfile, rootcert := filepath.Join(dir, "pgpass"), filepath.Join(dir, "root.crt")
	address := c.server.Address()
	host, _, _ := net.SplitHostPort(address)
	changePassword := func(password string) {
		c.Exec(t, `ALTER ROLE sidecar PASSWORD `+pq.QuoteLiteral(password))
	}
	c.Exec(t, `CREATE ROLE sidecar LOGIN IN ROLE keywicket_sidecar`)
	changePassword("first:one")
	first, second := newAuthority("first"), newAuthority("second")
	c.setCertificate(t, first, host, time.Now().Add(time.Hour))
	writeFile(t, rootcert, first.pem())
	line := address + ":*:sidecar:"
	writeFile(t, passfile, "# of the sidecar\n"+line+`first\:one`+"\n")

	token, key := c.WorkspaceToken(t, "issues:read")
	d := c.CachedDirectory(t, func(config *directory.Config) {
		config.URL = "postgres://sidecar@" + address + "/postgres?sslmode=verify-full&sslrootcert=" + rootcert + "&passfile=" + passfile
	})
	cachedLookup := storetest.Lookup(key)
	expectWorks := func(when string) {
		t.Helper()
		storetest.Eventually(t, when+": look-ups are answered from the database", func() bool {
			_, err := d.Lookup(t.Context(), storetest.Lookup(storetest.Vel.NewKey()))
			return err == nil
		})
		storetest.Eventually(t, when+": the change log is read", func() bool {
			found, err := d.Lookup(t.Context(), cachedLookup)
			return err == nil && found.Cache == authz.CacheHit
		})
		storetest.Eventually(t, when+": notifications are received", func() bool {
			_, before := d.ChangeCounts()
			c.Exec(t, `UPDATE keywicket.tokens SET scopes = scopes WHERE id = $1`, token.ID)
			time.Sleep(50 * time.Millisecond)
			_, after := d.ChangeCounts()
			return after > before
		})
		if n := storetest.Value[int](t, c.DB, `SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE usename = 'sidecar' AND NOT s.ssl`); n > 0 {
			t.Errorf("%s: %d connections are not encrypted", when, n)
		}
	}
	expectFails := func(when string, matches func(error) bool) {
		t.Helper()
		storetest.Eventually(t, when+": no look-up is answered", func() bool {
			_, err := d.Lookup(t.Context(), storetest.Lookup(storetest.Vel.NewKey()))
			return err != nil && matches(err)
		})
	}
	expectWorks("at first")

	changePassword("second")
	c.cut(t, "sidecar")
	expectFails("with the old password", func(err error) bool { return pq.As(err, pqerror.InvalidPassword) != nil })
	writeFile(t, passfile, line+"second\n")
	expectWorks("with the new password")
	if err := os.Chmod(passfile, 0o640); err != nil {
		t.Fatal(err)
	}
	c.cut(t, "sidecar")
	expectFails("with a password file that others may read", func(err error) bool { return pq.As(err, pqerror.InvalidPassword) != nil })
	if _, err := database.DSN("host=h passfile=" + passfile); err == nil || !strings.Contains(err.Error(), "has the mode 0640: change the mode to 0600") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(passfile, 0o600); err != nil {
		t.Fatal(err)
	}
	expectWorks("with the mode 0600 again")

	c.setCertificate(t, second, host, time.Now().Add(time.Hour))
	c.cut(t, "sidecar")
	expectFails("with the old authority", func(err error) bool { _, ok := errors.AsType[x509.UnknownAuthorityError](err); return ok })
	writeFile(t, rootcert, second.pem())
	expectWorks("with the new authority")
}

// With a client certificate, the sidecar logs in as the role that the certificate names. The sidecar reads the certificate again
// for each new connection. If root owns the key file, the group may also have read permission, as in a mounted Kubernetes Secret.
func TestLogInWithACertificate(t *testing.T) {
	c := newCluster(t)
	trusted, other := newAuthority("ours"), newAuthority("other")
	c.Exec(t, `CREATE ROLE sidecar LOGIN IN ROLE keywicket_sidecar`)
	c.write(t, "ca.crt", trusted.pem())
	c.Exec(t, `ALTER SYSTEM SET ssl_ca_file = 'ca.crt'`)
	c.Exec(t, `COPY (SELECT 'hostssl all sidecar all cert') TO PROGRAM 'cat - pg_hba.conf > first && mv first pg_hba.conf'`)
	host, _, _ := net.SplitHostPort(c.server.Address())
	c.setCertificate(t, trusted, host, time.Now().Add(time.Hour))
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, path("root.crt"), trusted.pem())
	logIn := func(signer authority, mode os.FileMode) error {
		certificate, key := signer.sign("sidecar", time.Now().Add(time.Hour))
		writeFile(t, path("tls.crt"), certificate)
		writeFile(t, path("tls.key"), key)
		if err := os.Chmod(path("tls.key"), mode); err != nil {
			t.Fatal(err)
		}
		return c.ping(t, "postgres://sidecar@"+c.server.Address()+"/postgres?sslmode=verify-full&sslrootcert="+path("root.crt")+
			"&sslcert="+path("tls.crt")+"&sslkey="+path("tls.key"))
	}
	if err := logIn(trusted, 0o600); err != nil {
		t.Error(err)
	}
	if err := logIn(trusted, 0o440); (err == nil) != (os.Getuid() == 0) {
		t.Errorf("a key that a group may read: %v", err)
	}
	if err := logIn(trusted, 0o444); !errors.Is(err, pq.ErrSSLKeyHasWorldPermissions) {
		t.Errorf("a key that everybody may read: %v", err)
	}
	if err := logIn(other, 0o600); err == nil {
		t.Error("the server accepts a certificate of another authority")
	}
}

func (c *cluster) ping(t *testing.T, databaseURL string) error {
	t.Helper()
	var user string
	return storetest.OpenDB(t, databaseURL).GetContext(t.Context(), &user, `SELECT current_user`)
}

func TestCertificateErrorsContainARemedy(t *testing.T) {
	c := newCluster(t)
	ours, other := newAuthority("ours"), newAuthority("other")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, content)
		return path
	}
	oursFile, otherFile := file("ours.crt", ours.pem()), file("other.crt", other.pem())
	u := storetest.Must(url.Parse(c.server.URL("postgres")))
	for _, certificate := range []struct {
		host  string
		until time.Time
		want  map[string]string
	}{
		{u.Hostname(), time.Now().Add(time.Hour), map[string]string{
			"sslmode=verify-full&sslrootcert=" + oursFile:                         "",
			"sslmode=verify-full&sslaccept=strict&sslrootcert=" + oursFile:        "",
			"sslmode=verify-full&channel_binding=require&sslrootcert=" + oursFile: "",
			"sslmode=require":                                  "",
			"channel_binding=prefer":                           "",
			"channel_binding=require&sslmode=require":          "which keywicket does not support",
			"sslmode=verify-full&sslrootcert=" + otherFile:     "sslrootcert=FILE in the database URL",
			"sslmode=verify-ca&sslrootcert=" + otherFile:       "sslrootcert=FILE in the database URL",
			"sslmode=require&sslrootcert=" + otherFile:         "sslrootcert=FILE in the database URL",
			"sslrootcert=system":                               "sslrootcert=FILE in the database URL",
			"sslmode=verify-full&sslrootcert=" + dir + "/none": "none: no such file",
		}},
		{"db.example.com", time.Now().Add(time.Hour), map[string]string{
			"sslmode=verify-full&sslrootcert=" + oursFile: "not for the host of the database URL (x509: cannot validate certificate for 127.0.0.1",
			"sslmode=verify-ca&sslrootcert=" + oursFile:   "",
		}},
		{u.Hostname(), time.Now().Add(-time.Minute), map[string]string{
			"sslmode=verify-full&sslrootcert=" + oursFile: "expired",
		}},
	} {
		c.setCertificate(t, ours, certificate.host, certificate.until)
		for query, want := range certificate.want {
			u.RawQuery = query
			r, err := registry.Open(t.Context(), u.String())
			if err == nil {
				_ = r.Close()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("a certificate for %s until %v, %s: got %v, want %q", certificate.host, certificate.until, query, err, want)
			}
		}
	}
}

func TestMigrateRefusesAnOldPostgres(t *testing.T) {
	program, ok := modulefile.Find(".tools/postgres-13/bin/postgres")
	if !ok {
		t.Fatal(`no Postgres 13: run "make .tools/postgres-13/bin/postgres"`)
	}
	t.Setenv("PG_BIN", filepath.Dir(program))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	old := storetest.Must(postgres.Start(ctx, postgres.Config{}))
	defer func() { _ = old.Close() }()
	db := storetest.OpenDB(t, old.URL("postgres"))
	applied, err := schema.Migrate(ctx, db)
	if len(applied) != 0 || err == nil || !strings.Contains(err.Error(), "the server is Postgres 13.") ||
		!strings.Contains(err.Error(), "keywicket needs 14 or later") {
		t.Errorf("%v, %v", applied, err)
	}
	db = storetest.Must(sqlx.Connect("postgres", old.URL("postgres"))) // not database.Open, because it would also refuse this server
	defer func() { _ = db.Close() }()
	if storetest.Value[bool](t, db, `SELECT to_regnamespace('keywicket') IS NOT NULL OR EXISTS (SELECT FROM pg_roles WHERE rolname ~ 'keywicket')`) {
		t.Error("the refused migration has changed the database")
	}
}
