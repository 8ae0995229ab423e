package cache_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/store/cache"
)

// server is a model of Postgres: rows, transactions that write to rows, and the change log (migration 00011). The model never
// changes an element of the server's slices, so a copy of the struct is a backup of the server.
type server struct {
	instance    string    // identifies the server and its start
	schema      string    // identifies the tables and triggers
	triggersOff bool      // the triggers are disabled
	verified    *verified // last verification of the schema, or nil if no sidecar has verified the schema since the server started

	state state // committed rows of the tables
	next  int   // next transaction id (xid)
	ended int   // the greatest xid of a transaction that has ended
	open  []*transaction

	log       []logRow // committed rows of the change log
	sequence  int      // sequence number of the row that was written last, committed or not
	markCount int64    // number of cleanings so far: each of them sets a mark
	mark      snapshot // snapshot of the last cleaning: the next cleaning deletes the rows that are visible in it
}

type logRow struct {
	xid      int
	keys     []cache.DependencyKey // nil: everything may have changed
	sequence int
	at       time.Duration // time at which the row was written
}

// transaction is a transaction that has written to rows, so it has an xid.
type transaction struct {
	xid      int
	written  rows // rows that this transaction has locked, so that no other transaction can write to them
	state    state
	log      []logRow
	cleaning *snapshot // the mark that the transaction sets, if it is a cleaning; nil if it is not
}

// maxRows is the maximum number of log rows in one reading. In the package feed, the maximum is 1000.
const maxRows = 4

// verified is the result of a verification of the schema.
type verified struct {
	schema      string
	triggersOff bool
	at          time.Duration
	state       int // index of the state at the time of the verification
}

func newServer() server {
	return server{instance: "0", schema: "0", state: firstState, next: 10, ended: 9, markCount: 1, mark: snapshot{xmin: 10, xmax: 10}}
}

// snapshot defines which transactions are visible to a statement.
type snapshot struct {
	xmin, xmax int
	xip        []int
}

// snapshot returns the present snapshot. As in Postgres, xmax is one more than the greatest xid of a transaction that has ended.
// Open transactions with a greater xid are not in xip.
func (s *server) snapshot() snapshot {
	now := snapshot{xmin: s.ended + 1, xmax: s.ended + 1}
	for _, t := range s.open {
		if t.xid < now.xmax {
			now.xip = append(now.xip, t.xid)
			now.xmin = min(now.xmin, t.xid)
		}
	}
	return now
}

func (s snapshot) sees(xid int) bool { return xid < s.xmax && !slices.Contains(s.xip, xid) }

func (s snapshot) String() string {
	open := make([]string, len(s.xip))
	for i, xid := range s.xip {
		open[i] = strconv.Itoa(xid)
	}
	return fmt.Sprintf("%d:%d:%s", s.xmin, s.xmax, strings.Join(open, ","))
}

func parseSnapshot(text string) (s snapshot) {
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		return n
	}
	parts := strings.Split(text, ":")
	s.xmin, s.xmax = number(parts[0]), number(parts[1])
	if parts[2] != "" {
		for xid := range strings.SplitSeq(parts[2], ",") {
			s.xip = append(s.xip, number(xid))
		}
	}
	return s
}

// changes returns the rows that the queries pollQuery and pollOpenQuery of the package feed find. These rows belong to
// transactions that began after the snapshot since, or that were open in this snapshot.
func (s *server) changes(since snapshot) (found []logRow) {
	now := s.snapshot()
	for _, r := range s.log {
		if r.xid >= since.xmax && r.xid < now.xmax {
			found = append(found, r)
		}
	}
	slices.SortStableFunc(found, func(a, b logRow) int { return a.xid - b.xid })
	found = found[:min(len(found), 1+maxRows)]
	open := 0
	for _, r := range s.log {
		if slices.Contains(since.xip, r.xid) && open < 1+maxRows {
			found = append(found, r)
			open++
		}
	}
	return found
}

// write makes a change in the transaction t. If t is nil, it makes the change in a new transaction. If another open transaction
// has written to the same rows, write does nothing, because the statement would wait in Postgres.
func (s *server) write(t *transaction, c change, v changeValues) *transaction {
	before := s.state
	if t != nil {
		before.put(t.written, t.state)
	}
	after := before
	keys := c.do(&after, v)
	written := changedRows(before, after)
	for _, other := range s.open {
		for i := range written {
			if other != t && written[i] && other.written[i] {
				return nil
			}
		}
	}
	if t == nil {
		t = s.begin()
	}
	for i := range written {
		t.written[i] = t.written[i] || written[i]
	}
	t.state = after
	if !s.triggersOff {
		s.sequence++
		t.log = append(t.log, logRow{t.xid, keys, s.sequence, v.now})
	}
	return t
}

// clean begins a cleaning of the log, as the SQL function keep_up does, unless another cleaning is in progress.
func (s *server) clean() *transaction {
	if len(s.writing()) < len(s.open) {
		return nil
	}
	mark := s.snapshot()
	t := s.begin()
	t.cleaning = &mark
	return t
}

// writing returns the open transactions that are not cleanings.
func (s *server) writing() []*transaction {
	return slices.DeleteFunc(slices.Clone(s.open), func(t *transaction) bool { return t.cleaning != nil })
}

func (s *server) begin() *transaction {
	t := &transaction{xid: s.next}
	s.next++
	s.open = append(slices.Clip(s.open), t)
	return t
}

func (s *server) rollback(t *transaction) {
	s.open = slices.DeleteFunc(slices.Clone(s.open), func(other *transaction) bool { return other == t })
	s.ended = max(s.ended, t.xid)
}

// commit makes the changes of the transaction visible. If the transaction is a cleaning, commit also deletes each row of the log
// for which the parameter `deletable` returns true.
func (s *server) commit(t *transaction, deletable func(*server, logRow) bool) {
	s.rollback(t)
	s.state.put(t.written, t.state)
	s.log = append(slices.Clip(s.log), t.log...)
	if t.cleaning != nil {
		s.log = slices.DeleteFunc(slices.Clone(s.log), func(r logRow) bool { return deletable(s, r) })
		s.markCount, s.mark = s.markCount+1, *t.cleaning
	}
}

// visibleInMark reports whether a row of the log is visible in the last mark.
func (s *server) visibleInMark(r logRow) bool { return s.mark.sees(r.xid) }
