package cache_test

import (
	"cmp"
	"slices"

	"github.com/keywicket/keywicket/store/cache"
)

// reading is a poll with its reply.
type reading struct {
	poll     cache.Poll
	done     bool // the database has executed the poll
	state    int  // index of the state in which the poll was executed
	verified *verified
	reply    cache.Reply
}

// verify verifies the schema, as a sidecar does. It does not matter which sidecar verifies it.
func (m *model) verify() {
	m.server.verified = &verified{m.server.schema, m.server.triggersOff, m.now(), len(m.commits)}
}

// executeNow executes a reading and delivers the reply. If the last verification is missing or too old, it verifies the schema,
// as the package feed does.
func (m *model) executeNow(r *reading) {
	if m.server.verified == nil {
		m.verify()
	}
	m.receive(r, false)
	if m.now()-m.server.verified.at >= bound/5 {
		m.verify()
	}
}

// read executes a reading on the database.
func (m *model) read(r *reading) {
	if r == nil || r.done {
		return
	}
	var found []logRow
	snapshot := m.server.snapshot().String()
	if c, ok := m.cache.(customLog); ok {
		found, snapshot = c.changes(&m.server, r.poll.PreviousSnapshot)
	} else {
		found = m.server.changes(parseSnapshot(cmp.Or(r.poll.PreviousSnapshot, "1:1:")))
	}
	r.done, r.state, r.verified = true, len(m.commits), m.server.verified
	r.reply = cache.Reply{Snapshot: snapshot, Cleanings: m.server.markCount, AllChanged: len(found) > maxRows}
	if v := r.verified; v != nil && !v.triggersOff {
		r.reply.Fingerprint, r.reply.FingerprintAge = m.server.instance+" "+v.schema, m.now()-v.at
	}
	for _, row := range found {
		if row.keys == nil {
			r.reply.AllChanged = true
		} else {
			r.reply.Changes = append(r.reply.Changes, row.keys)
		}
	}
}

// drop removes a reading, so its reply never arrives.
func (m *model) drop(r *reading) {
	m.readings = slices.DeleteFunc(m.readings, func(other *reading) bool { return other == r })
}

// receive delivers the reply of a reading. If demoted is true, other processes may count the sidecar as stopped, so the reply
// does not extend the lease.
func (m *model) receive(r *reading, demoted bool) {
	if r == nil {
		return
	}
	m.read(r)
	m.drop(r)
	if r.verified == nil {
		return // in this case, the package feed verifies the schema first
	}
	if c, ok := m.cache.(customLog); ok {
		c.beforeApply(&m.server, &r.reply)
	}
	m.cache.Apply(r.poll, r.reply, !demoted)
	if r != m.latest {
		return
	}
	m.latest = nil
	readState := r.state
	for _, n := range m.unlogged {
		if r.verified.state < n {
			readState = min(readState, n-1)
		}
	}
	m.readState = max(m.readState, readState)
}
