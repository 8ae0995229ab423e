package store

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
)

// The look-up queries, for EXPLAIN in tests.
const (
	LookupQuery  = lookupQuery
	SessionQuery = sessionQuery
	OAuthQuery   = oauthQuery
)

// TokensQuery returns the query of [Registry.Tokens], for EXPLAIN in tests.
var TokensQuery = tokensQuery

// FeedURL returns the configuration that the listener gets for a database URL.
func FeedURL(databaseURL string) (string, error) {
	s, err := parse(databaseURL)
	return s.dsn, err
}

// ConnectError and CheckVersion are for testing the errors of servers that the tests cannot start.
var (
	ConnectError = connectError
	CheckVersion = checkVersion
)

// AttributesSize returns the length of the text that Postgres writes for the attributes.
func AttributesSize(text string) (int, error) {
	var size jsonSize
	err := size.add(json.RawMessage(strings.TrimSpace(text)))
	return int(size), err
}

// ReadURL returns the settings of a URL that are not in lib/pq's configuration.
func ReadURL(databaseURL string) (pooled bool, keepAlive net.KeepAliveConfig, err error) {
	s, err := parse(databaseURL)
	return s.pooled, s.keepAlive, err
}

// MigrateTo runs the migrations up to the version.
func MigrateTo(ctx context.Context, db *sqlx.DB, version int64) error {
	provider, err := migrations(db)
	if err != nil {
		return err
	}
	_, err = provider.UpTo(ctx, version)
	return err
}

// ReadChanges reads the change log like a sidecar.
func ReadChanges(t testing.TB, c *sqlx.Conn, since string) (snapshot string, changes []string) {
	t.Helper()
	p, err := newPollConnection(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.read(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	return r.Snapshot, r.Changes
}

// Waiting returns the number of look-ups of keys and tokens that wait for a query.
func (d *Directory) Waiting() int {
	n := &d.lookups.tokens
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting.Len()
}
