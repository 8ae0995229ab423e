package lookup

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
)

// ErrUnreadable means that this program cannot read the database's answer.
var ErrUnreadable = errors.New("the database's answer cannot be read")

// Query answers look-ups of one kind. The parameter `query` is the SQL query for this kind, for example [TokenQuery]. The answers
// are in the order of the look-ups. The result `started` is the value of [database.ServerStarted] on the server that answered. The
// connections of db must be of the type [database.Connection].
//
// Query takes a connection from database/sql, but reads lib/pq's rows directly. With the rows of database/sql, each query would
// start a goroutine. Such a goroutine waits for the end of the context.
func Query(ctx context.Context, db *sqlx.DB, query string, lookups []authz.Lookup) (answers []cache.Answer, started int64, err error) {
	args, err := arguments(lookups)
	if err != nil {
		return nil, 0, err
	}
	c, err := db.Connx(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = cmp.Or(err, c.Close()) }()
	err = c.Raw(func(raw any) (err error) {
		rows, err := raw.(database.Connection).QueryPrepared(ctx, query, args)
		if err != nil {
			return err
		}
		defer func() { err = cmp.Or(err, rows.Close()) }() // close the rows even after a panic, because a goroutine of lib/pq waits for this
		answers, started, err = readAnswers(rows, lookups)
		return err
	})
	return answers, started, err
}

// arguments returns the query's arguments for look-ups of one kind.
func arguments(lookups []authz.Lookup) ([]driver.NamedValue, error) {
	var digests pq.ByteaArray
	var apis, sessions, users, ids, slugs pq.StringArray
	var startTimes pq.Int64Array
	for _, l := range lookups {
		ids, slugs = append(ids, l.Workspace.ID), append(slugs, l.Workspace.Slug)
		if l.Kind == authz.KindSession {
			sessions, users, startTimes = append(sessions, l.Session.ID), append(users, l.Session.UserID), append(startTimes, l.Session.StartedAt)
			continue
		}
		digests, apis = append(digests, l.Digest[:]), append(apis, l.API)
	}
	arrays := []driver.Valuer{digests, apis, ids, slugs}
	if lookups[0].Kind == authz.KindSession {
		arrays = []driver.Valuer{sessions, users, startTimes, ids, slugs}
	}
	args := make([]driver.NamedValue, len(arrays))
	for i, a := range arrays {
		value, err := a.Value()
		if err != nil {
			return nil, err
		}
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: value}
	}
	return args, nil
}

// readAnswers reads the query's rows, and returns the answers in the order of the look-ups. The result `started` identifies the
// server.
func readAnswers(rows driver.Rows, lookups []authz.Lookup) (answers []cache.Answer, started int64, err error) {
	answers = make([]cache.Answer, len(lookups))
	values := make([]driver.Value, len(rows.Columns()))
	n := 0
	for ; ; n++ {
		if err := rows.Next(values); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, 0, err
		}
		f, err := readRow(values, lookups[0].Kind)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrUnreadable, err)
		}
		i := f.place - 1
		if i < 0 || i >= int64(len(lookups)) || answers[i].Keys != nil {
			return nil, 0, fmt.Errorf("%w: the row for look-up %d of %d is unexpected", ErrUnreadable, f.place, len(lookups))
		}
		started, answers[i] = f.started, f.answer(lookups[i])
	}
	if n != len(lookups) {
		return nil, 0, fmt.Errorf("%w: only %d of %d look-ups have an answer", ErrUnreadable, n, len(lookups))
	}
	return answers, started, nil
}

// row is a row of a look-up query.
type row struct {
	authz.LookupResult
	started  int64 // value of database.ServerStarted
	place    int64 // position of the look-up in the query; the first position is 1
	app      string
	lifetime sql.NullFloat64 // remaining lifetime in seconds
}

func readRow(values []driver.Value, kind authz.Kind) (f row, err error) {
	c := columns{unread: values}
	f.started, f.place = next[int64](&c), next[int64](&c)
	f.Denial = authz.Reason(next[string](&c))
	p, w := &f.Principal, &f.Workspace
	p.ID, p.Kind, p.Environment = next[string](&c), authz.Kind(next[string](&c)), authz.Environment(next[string](&c))
	p.UserID = next[string](&c)
	c.scan((*pq.StringArray)(&p.Scopes))
	w.ID, w.Slug, w.Role = next[string](&c), next[string](&c), next[string](&c)
	c.scan(&f.lifetime)
	p.Attributes, p.UserAttributes = authz.Attributes(next[string](&c)), authz.Attributes(next[string](&c))
	w.Attributes = authz.Attributes(next[string](&c))
	switch kind {
	case authz.KindOAuthToken:
		p.GrantID, f.app = next[string](&c), next[string](&c)
	case authz.KindSession:
		f.MFAEnrolled = next[bool](&c)
	}
	if len(c.unread) > 0 {
		return row{}, fmt.Errorf("%d columns too many", len(c.unread))
	}
	return f, c.err
}

// columns reads the columns of a row, one after the other.
type columns struct {
	unread []driver.Value
	err    error // the first error
}

func (c *columns) take() (value driver.Value) {
	if len(c.unread) == 0 {
		c.fail(errors.New("a column is missing"))
		return nil
	}
	value, c.unread = c.unread[0], c.unread[1:]
	return value
}

func (c *columns) fail(err error) { c.err = cmp.Or(c.err, err) }

func (c *columns) scan(into sql.Scanner) {
	value := c.take()
	c.fail(into.Scan(value))
}

// next reads the next column. T must be the type that lib/pq returns for this column.
func next[T int64 | string | bool](c *columns) T {
	value, ok := c.take().(T)
	if !ok {
		c.fail(fmt.Errorf("a column is not a %T", value))
	}
	return value
}

// answer returns the row as the answer to the look-up.
func (f *row) answer(l authz.Lookup) cache.Answer {
	keys := cache.CredentialKeys(l)
	if f.Denial == authz.ReasonUnknown {
		return cache.Answer{Result: authz.LookupResult{Denial: f.Denial}, Keys: keys}
	}
	f.Principal.API, f.Principal.SessionID = l.API, l.Session.ID
	if l.Kind == authz.KindOAuthToken {
		keys = append(keys, cache.GrantKey(f.Principal.GrantID), cache.AppKey(f.app))
	}
	// The answer depends on the user, who may be banned or become a member.
	if f.Principal.UserID != "" && l.Kind != authz.KindSession {
		keys = append(keys, cache.UserKey(f.Principal.UserID))
	}
	const maxSeconds = 1e9 // a time.Duration can contain nine times as many seconds
	a := cache.Answer{
		Result: f.LookupResult, Keys: keys,
		Expires: f.lifetime.Valid, TTL: time.Duration(min(f.lifetime.Float64, maxSeconds) * float64(time.Second)),
	}
	if f.Denial != "" {
		a.Result = authz.LookupResult{Denial: f.Denial}
		a.Expires = f.lifetime.Float64 > 0 // the lifetime may be the rest of a ban, so the denial may end; the lifetime of an expired token is not positive
		return a
	}
	if f.Workspace.ID != "" {
		a.Keys = append(a.Keys, cache.WorkspaceKey(f.Workspace.ID))
	}
	// The requested workspace may be created later.
	if f.Principal.UserID != "" && l.Workspace.Slug != "" {
		a.Keys = append(a.Keys, cache.SlugKey(l.Workspace.Slug))
	}
	return a
}

// Once answers a single look-up. The operator's commands use this function.
func Once(ctx context.Context, db *sqlx.DB, query string, l authz.Lookup) (authz.LookupResult, error) {
	const attempts = 3 // retry because connections in the pool may be dead; database/sql uses the same number of attempts
	var answers []cache.Answer
	err := database.RetryLost(ctx, attempts, func() (err error) {
		answers, _, err = Query(ctx, db, query, []authz.Lookup{l})
		return err
	})
	if err != nil {
		return authz.LookupResult{}, err
	}
	return answers[0].Result, nil
}
