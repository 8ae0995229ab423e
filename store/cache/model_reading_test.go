package cache_test

import (
	"cmp"
	"slices"

	"github.com/keywicket/keywicket/store/cache"
)

// reading is a poll and its result.
type reading struct {
	poll     cache.Poll
	done     bool // the database has executed the poll
	state    int  // index of the state in which the poll was executed
	verified *verified
	reply    cache.Reply
}

// verify checks the schema, as this sidecar or another one does.
func (w *world) verify() {
	w.server.verified = &verified{w.server.schema, w.server.triggersOff, w.now(), len(w.commits)}
}

// executeNow executes a reading. Like the package feed, it checks the schema if the last check is missing or too old.
func (w *world) executeNow(r *reading) {
	if w.server.verified == nil {
		w.verify()
	}
	w.receive(r, false)
	if w.now()-w.server.verified.at >= bound/5 {
		w.verify()
	}
}

// read executes a reading on the database.
func (w *world) read(r *reading) {
	if r == nil || r.done {
		return
	}
	var found []logRow
	snapshot := w.server.snapshot().String()
	if c, ok := w.cache.(customLog); ok {
		found, snapshot = c.changes(&w.server, r.poll.Since)
	} else {
		found = w.server.changes(parseSnapshot(cmp.Or(r.poll.Since, "1:1:")))
	}
	r.done, r.state, r.verified = true, len(w.commits), w.server.verified
	r.reply = cache.Reply{Snapshot: snapshot, Mark: w.server.number, All: len(found) > mostRows}
	if v := r.verified; v != nil && !v.triggersOff {
		r.reply.World, r.reply.Verified = w.server.instance+" "+v.schema, w.now()-v.at
	}
	for _, row := range found {
		if row.keys == nil {
			r.reply.All = true
		} else {
			r.reply.Changes = append(r.reply.Changes, row.keys)
		}
	}
}

// drop drops a reading: its reply never arrives.
func (w *world) drop(r *reading) {
	w.readings = slices.DeleteFunc(w.readings, func(other *reading) bool { return other == r })
}

// receive delivers the reply. demoted means that the sidecar's own row in the list of sidecars is too old, so the reply does not
// extend the lease.
func (w *world) receive(r *reading, demoted bool) {
	if r == nil {
		return
	}
	w.read(r)
	w.drop(r)
	if r.verified == nil {
		return // the package feed checks the schema first
	}
	if c, ok := w.cache.(customLog); ok {
		c.beforeApply(&w.server, &r.reply)
	}
	w.cache.Apply(r.poll, r.reply, !demoted)
	if r != w.latest {
		return
	}
	w.latest = nil
	known := r.state
	for _, n := range w.unlogged {
		if r.verified.state < n {
			known = min(known, n-1)
		}
	}
	w.known = max(w.known, known)
}
