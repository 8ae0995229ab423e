package store

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
)

// The queries are for EXPLAIN.
const (
	LookupQuery  = lookupQuery
	SessionQuery = sessionQuery
	OAuthQuery   = oauthQuery
)

// TokensQuery is for EXPLAIN.
var TokensQuery = tokensQuery

// FeedURL is what the listener is given, for every form of a URL.
func FeedURL(databaseURL string) (string, error) {
	s, err := parse(databaseURL)
	return s.dsn, err
}

// ConnectError and CheckVersion are for errors of servers that the tests do not have.
var (
	ConnectError = connectError
	CheckVersion = checkVersion
)

// AttributesSize is how long Postgres would write the attributes.
func AttributesSize(text string) (int, error) {
	var size jsonSize
	err := size.add(json.RawMessage(strings.TrimSpace(text)))
	return int(size), err
}

// ReadURL is what a URL says that lib/pq's configuration does not hold.
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

// ReadChanges reads the log of changes as a sidecar does.
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

// Waiting is how many look-ups of keys and tokens wait for a query.
func (d *Directory) Waiting() int {
	n := &d.lookups.tokens
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting.Len()
}
