package database

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// remedy is an error whose text contains a remedy for the operator.
type remedy struct {
	sentence string
	cause    error
}

func (r *remedy) Error() string { return r.sentence }
func (r *remedy) Unwrap() error { return r.cause }

// quotedName matches the quoted name of an option in a message of Postgres. The quotation marks depend on the message's language:
// „x“, »x«, "x".
var quotedName = regexp.MustCompile(`["„“”«»‘’']\s*([\pL\pN_.-]+)\s*["„“”«»‘’']`)

// pgbouncerRefusal matches the message with which PgBouncer rejects an option.
var pgbouncerRefusal = regexp.MustCompile(`^unsupported startup parameter(?: in options)?: (\S+)`)

// connectError adds a remedy to an error of lib/pq. If there is no known remedy, connectError returns the error unchanged.
func connectError(err error) error {
	sentence := ""
	if e := pq.As(err, pqerror.UndefinedObject); e != nil {
		sentence = "the database URL has an option that Postgres does not support: remove it"
		if m := quotedName.FindStringSubmatch(e.Message); m != nil {
			sentence = fmt.Sprintf("the database URL has the option %s, which Postgres does not support: remove it", m[1])
		}
	}
	if e := pq.As(err, pqerror.ProtocolViolation); e != nil {
		if m := pgbouncerRefusal.FindStringSubmatch(e.Message); m != nil {
			sentence = fmt.Sprintf("the pooler does not accept the option %s: remove it from the database URL, or add it to the pooler's "+
				"ignore_startup_parameters", m[1])
		}
	}
	if errors.Is(err, pq.ErrSSLNotSupported) {
		sentence = "the server has no TLS, but the database URL requires it (sslmode=require is the default): turn on TLS in the server (ssl = on in postgresql.conf), or " +
			"add sslmode=disable to the URL if the network is trusted"
	}
	if sentence == "" {
		sentence = certificateRemedy(err)
	}
	if sentence == "" {
		return err
	}
	return &remedy{sentence, err}
}

func certificateRemedy(err error) string {
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the server's certificate is not for the host of the database URL (%v): use the host name of the certificate, "+
			"or write sslmode=verify-ca to trust every host with a certificate of the same authority", host)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "this machine does not trust the authority that signed the server's certificate: set the file with the authority's certificate, " +
			"sslrootcert=FILE in the database URL"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return fmt.Sprintf("the server's certificate is not valid (%v): renew it", invalid)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the server's certificate is not valid (%v): check sslrootcert in the database URL", err)
	}
	return ""
}

// oldestPostgres is the oldest supported version of Postgres, as server_version_num.
const oldestPostgres = 140000

// checkVersion returns an error if the server is too old. The parameter `number` is the server's setting server_version_num.
func checkVersion(number int) error {
	if number >= oldestPostgres {
		return nil
	}
	version := fmt.Sprintf("%d.%d", number/10000, number%10000)
	if number < 100000 {
		version = fmt.Sprintf("%d.%d.%d", number/10000, number/100%100, number%100)
	}
	return fmt.Errorf("the server is Postgres %s: keywicket needs %d or later", version, oldestPostgres/10000)
}
