package store

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// foreignOption is one that lib/pq would send to Postgres, which knows it no more.
type foreignOption struct {
	harmless []string // values that demand nothing
	verified bool     // sslmode=verify-full keeps whatever is demanded
	instead  string   // what to do about a value that demands something
}

// demanding are options that may ask for what lib/pq does not do. Such a value is refused: nobody would notice that it is not kept.
var demanding = map[string]foreignOption{
	// libpq's.
	"channel_binding":     {[]string{"disable", "prefer"}, true, verifyInstead},
	"gssencmode":          {[]string{"disable", "prefer"}, false, "write sslmode=verify-full instead, to encrypt by TLS"},
	"sslcertmode":         {[]string{"allow"}, false, "remove it; without sslcert no certificate is sent, if the home folder has no .postgresql/postgresql.crt"},
	"sslcrl":              {nil, false, "remove it; lists of revoked certificates are not read"},
	"sslcrldir":           {nil, false, "remove it; lists of revoked certificates are not read"},
	"sslpassword":         {nil, false, "remove it, and store the key of sslkey without a passphrase"},
	"sslkeylogfile":       {nil, false, "remove it"},
	"requirepeer":         {nil, false, "remove it, and let nobody but the server write to the folder of its socket"},
	"require_auth":        {nil, false, "write sslmode=verify-full instead, so that no other server gets the password"},
	"requiressl":          {[]string{"0"}, false, "write sslmode=require instead"},
	"replication":         {[]string{"false", "off", "no", "0"}, false, "remove it"},
	"oauth_issuer":        {nil, false, loginInstead},
	"oauth_client_id":     {nil, false, loginInstead},
	"oauth_client_secret": {nil, false, loginInstead},
	"oauth_scope":         {nil, false, loginInstead},
	"scram_client_key":    {nil, false, loginInstead},
	"scram_server_key":    {nil, false, loginInstead},
	// Of Prisma, JDBC and asyncpg.
	"sslaccept":        {[]string{"accept_invalid_certs"}, true, verifyInstead},
	"sslidentity":      {nil, false, "write sslcert and sslkey instead"},
	"ssl":              {nil, false, "write sslmode instead"},
	"targetServerType": {[]string{"primary"}, false, "write target_session_attrs=primary instead"},
}

const loginInstead = "remove it, and log in with a password or a certificate"

const verifyInstead = "write sslmode=verify-full instead, with sslrootcert=system for an authority that everybody trusts, or sslrootcert=FILE"

// harmless are options that have nothing to say here: this program has a pool of its own, a schema of its own, and statements
// that are prepared in its own way.
var harmless = []string{
	"gssdelegation", "gsslib", "sslcompression", // libpq: never done
	"connection_limit", "pool_timeout", "socket_timeout", "schema", "statement_cache_size", "single_use_connections", // Prisma
	"max_connection_lifetime", "max_idle_connection_lifetime",
	"default_query_exec_mode", "statement_cache_mode", "statement_cache_capacity", "description_cache_capacity", // pgx
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter",
	"pool_max_conn_idle_time", "pool_health_check_period",
	"prepareThreshold", "preparedStatementCacheQueries", "preparedStatementCacheSizeMiB", "tcpKeepAlive", // JDBC
	"prepare_threshold", "prepared_statement_cache_size", // psycopg, asyncpg
	"uselibpqcompat", "supa", // node-postgres, Supabase on Vercel
}

// keptHere are options that this package keeps itself.
var keptHere = []string{"pgbouncer", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}

// takeForeign removes the options that neither lib/pq nor Postgres knows, and returns them.
func (o options) takeForeign() options {
	foreign := options{}
	for name, value := range maps.Clone(o) {
		if _, ok := demanding[name]; ok || slices.Contains(harmless, name) || slices.Contains(keptHere, name) {
			foreign[name] = value
			delete(o, name)
		}
	}
	return foreign
}

// readTo reads the options that this package keeps itself. Numbers are as in libpq: zero is the system's own.
func (o options) readTo(s *settings) error {
	var err error
	number := func(name string) int {
		value, ok := o[name]
		n, e := strconv.Atoi(strings.TrimSpace(value))
		if ok && value != "" && e != nil && err == nil {
			err = fmt.Errorf("the database URL has a wrong value for %s: it is a number", name)
		}
		return n
	}
	// net takes zero for its own default, and what is negative for the system's.
	probe := func(name string) int {
		n := max(number(name), 0)
		if o[name] != "" && n == 0 {
			return -1
		}
		return n
	}
	s.keepAlive = net.KeepAliveConfig{
		Enable:   o["keepalives"] == "" || number("keepalives") != 0,
		Idle:     time.Duration(probe("keepalives_idle")) * time.Second,
		Interval: time.Duration(probe("keepalives_interval")) * time.Second,
		Count:    probe("keepalives_count"),
	}
	number("tcp_user_timeout") // each read and each write has a deadline of its own
	switch o["pgbouncer"] {
	case "", "false":
	case "true":
		s.pooled = true
	default:
		err = errors.New("the database URL has a wrong value for pgbouncer: it is true or false")
	}
	return err
}

// check refuses options that ask for what lib/pq does not do.
func (o options) check(mode pq.SSLMode) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		d, ok := demanding[name]
		if !ok || o[name] == "" || slices.Contains(d.harmless, o[name]) || d.verified && mode == pq.SSLModeVerifyFull {
			continue
		}
		what := name
		if len(d.harmless) > 0 && slices.Contains([]string{"require", "strict", "true"}, o[name]) { // no secret
			what += "=" + o[name]
		}
		return fmt.Errorf("the database URL has %s, which keywicket cannot keep: %s", what, d.instead)
	}
	return nil
}
