package database

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

// foreignOption is an option that neither lib/pq nor Postgres supports. lib/pq would send the option to Postgres, and Postgres
// would reject the connection.
type foreignOption struct {
	accepted           []string // values that are accepted, because they do not require the feature of the option
	verifyFullSuffices bool     // whether every value is accepted with sslmode=verify-full
	remedy             string   // what the operator should do if the value is not accepted
}

// featureOptions are options that may require a feature that lib/pq does not have. keywicket rejects each value that requires the
// feature. If keywicket ignored such a value, nobody would notice that the feature is missing.
var featureOptions = map[string]foreignOption{
	// The following options come from libpq.
	"channel_binding":     {[]string{"disable", "prefer"}, true, verifyInstead},
	"gssencmode":          {[]string{"disable", "prefer"}, false, "write sslmode=verify-full instead, which uses TLS for encryption"},
	"sslcertmode":         {[]string{"allow"}, false, "remove it; a certificate is sent only if sslcert is set, or if the home folder has .postgresql/postgresql.crt"},
	"sslcrl":              {nil, false, "remove it; lists of revoked certificates are not read"},
	"sslcrldir":           {nil, false, "remove it; lists of revoked certificates are not read"},
	"sslpassword":         {nil, false, "remove it, and store the key of sslkey without a passphrase"},
	"sslkeylogfile":       {nil, false, "remove it"},
	"requirepeer":         {nil, false, "remove it, and make sure that only the server can write to the folder of its socket"},
	"require_auth":        {nil, false, "write sslmode=verify-full instead, so that no other server gets the password"},
	"requiressl":          {[]string{"0"}, false, "write sslmode=require instead"},
	"replication":         {[]string{"false", "off", "no", "0"}, false, "remove it"},
	"oauth_issuer":        {nil, false, loginInstead},
	"oauth_client_id":     {nil, false, loginInstead},
	"oauth_client_secret": {nil, false, loginInstead},
	"oauth_scope":         {nil, false, loginInstead},
	"scram_client_key":    {nil, false, loginInstead},
	"scram_server_key":    {nil, false, loginInstead},
	// The following options come from Prisma, JDBC and asyncpg.
	"sslaccept":        {[]string{"accept_invalid_certs"}, true, verifyInstead},
	"sslidentity":      {nil, false, "write sslcert and sslkey instead"},
	"ssl":              {nil, false, "write sslmode instead"},
	"targetServerType": {[]string{"primary"}, false, "write target_session_attrs=primary instead"},
}

const loginInstead = "remove it, and log in with a password or a certificate"

const verifyInstead = "write sslmode=verify-full instead, with sslrootcert=system for a publicly trusted authority, or sslrootcert=FILE"

// ignoredOptions are options that have no effect in keywicket, because keywicket has its own pool, its own schema, and its own
// way to prepare statements.
var ignoredOptions = []string{
	"gssdelegation", "gsslib", "sslcompression", // libpq; keywicket never uses the features of these options
	"connection_limit", "pool_timeout", "socket_timeout", "schema", "statement_cache_size", "single_use_connections", // Prisma
	"max_connection_lifetime", "max_idle_connection_lifetime",
	"default_query_exec_mode", "statement_cache_mode", "statement_cache_capacity", "description_cache_capacity", // pgx
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter",
	"pool_max_conn_idle_time", "pool_health_check_period",
	"prepareThreshold", "preparedStatementCacheQueries", "preparedStatementCacheSizeMiB", "tcpKeepAlive", // JDBC
	"prepare_threshold", "prepared_statement_cache_size", // psycopg, asyncpg
	"uselibpqcompat", "supa", // node-postgres, Supabase on Vercel
}

// ownOptions are the options that this package implements itself.
var ownOptions = []string{"pgbouncer", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}

// takeNonDriverOptions removes the options that lib/pq must not receive, and returns them: featureOptions, ignoredOptions and
// ownOptions.
func (o options) takeNonDriverOptions() options {
	taken := options{}
	for name, value := range maps.Clone(o) {
		if _, ok := featureOptions[name]; ok || slices.Contains(ignoredOptions, name) || slices.Contains(ownOptions, name) {
			taken[name] = value
			delete(o, name)
		}
	}
	return taken
}

// readSettings sets fields of s from the ownOptions. A number of zero means the default of the operating system, as in libpq.
func (o options) readSettings(s *Settings) error {
	var err error
	number := func(name string) int {
		value, ok := o[name]
		n, e := strconv.Atoi(strings.TrimSpace(value))
		if ok && value != "" && e != nil && err == nil {
			err = fmt.Errorf("the database URL has a wrong value for %s: write a number", name)
		}
		return n
	}
	// keepAliveNumber returns the number of an option for TCP keep-alive. If the option is set to zero, keepAliveNumber returns
	// -1: in Go's package net, a negative value means the default of the operating system, and zero means the package's default.
	keepAliveNumber := func(name string) int {
		n := max(number(name), 0)
		if o[name] != "" && n == 0 {
			return -1
		}
		return n
	}
	s.KeepAlive = net.KeepAliveConfig{
		Enable:   o["keepalives"] == "" || number("keepalives") != 0,
		Idle:     time.Duration(keepAliveNumber("keepalives_idle")) * time.Second,
		Interval: time.Duration(keepAliveNumber("keepalives_interval")) * time.Second,
		Count:    keepAliveNumber("keepalives_count"),
	}
	number("tcp_user_timeout") // this call only checks the form of the value, because limitedConn sets a deadline for each read and each write
	switch o["pgbouncer"] {
	case "", "false":
	case "true":
		s.pooled = true
	default:
		err = errors.New("the database URL has a wrong value for pgbouncer: write true or false")
	}
	return err
}

// check rejects options that require a feature that lib/pq does not support.
func (o options) check(mode pq.SSLMode) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		d, ok := featureOptions[name]
		if !ok || o[name] == "" || slices.Contains(d.accepted, o[name]) || d.verifyFullSuffices && mode == pq.SSLModeVerifyFull {
			continue
		}
		what := name
		if len(d.accepted) > 0 && slices.Contains([]string{"require", "strict", "true"}, o[name]) { // these values are not secret
			what += "=" + o[name]
		}
		return fmt.Errorf("the database URL has %s, which keywicket does not support: %s", what, d.remedy)
	}
	return nil
}
