package directory

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

const (
	// noteInterval is the minimum time between two writes of the last use of a token. It is one second longer than the minute that
	// the database requires. With exactly one minute, a write may arrive slightly too early, and the database ignores it. This could
	// happen to every other write.
	noteInterval = 61 * time.Second
	// countInterval is the minimum time between two writes of the counts of a token. It limits the load of many sidecars: the
	// database must add up the counts of all sidecars, whereas it ignores most of their last uses.
	countInterval = 10 * time.Minute

	useShards       = 256
	maxUsesPerShard = 1024 // so at most 262,144 tokens, which need about 20 MiB
)

// uses contains, for each token: the time of its last use, and the number of requests that are not yet in the database. A use stays
// in this table until it is written, so a failed write loses nothing. A use of a token that is already in the table allocates
// nothing, and locks one of 256 shards for less than a microsecond. The maps have no pointers for the garbage collector to follow.
type uses struct {
	seeds  [2]maphash.Seed
	shards [useShards]useShard
}

type useShard struct {
	mu      sync.Mutex
	uses    map[useKey]use
	names   map[useKey]string // the ids that are not UUIDs
	full    bool              // all tokens have unwritten uses, and there is no space for another token
	dropped int               // number of requests for which the shard had no space
	_       [24]byte          // so that two shards do not share a cache line
}

// useKey is the UUID of a token. If the id of a token is not a UUID, useKey is a hash of the id.
type useKey [16]byte

// ticks is a time since the start of the sidecar. The unit is 1/8 s, so the type is large enough for eight years.
type ticks int32

const tick = time.Second / 8

// toTicks converts a time since the start of the sidecar. The result is at least 1, because 0 means never.
func toTicks(since time.Duration) ticks { return ticks(since/tick) + 1 } //nolint:gosec // less than eight years

func (t ticks) time() time.Duration { return time.Duration(t-1) * tick }

type use struct {
	allowed, denied uint32 // requests that are not written
	last            ticks  // time of the last use
	noted           ticks  // the last use that is written
	counted         ticks  // time of the last write of counts
}

func (u use) unwritten() bool { return u.allowed != 0 || u.denied != 0 || u.last > u.noted }

func (u use) noteDue() bool {
	return u.last > u.noted && (u.noted == 0 || u.last-u.noted >= ticks(noteInterval/tick))
}

func (u use) countsDue(now ticks) bool {
	return (u.allowed != 0 || u.denied != 0) && (u.counted == 0 || now-u.counted >= ticks(countInterval/tick))
}

// row is what is written for a token: its last use, and the requests to add to the counts of the day.
type row struct {
	key             useKey
	shard           *useShard
	id              string
	last            ticks
	allowed, denied uint32
}

func newUses() *uses {
	return &uses{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// add records a use at the given time, and adds requests to the counts.
func (u *uses) add(id string, at ticks, allowed, denied uint32) {
	hash := maphash.String(u.seeds[0], id)
	key, isUUID := parseUUID(id)
	if !isUUID {
		binary.BigEndian.PutUint64(key[:8], hash)
		binary.BigEndian.PutUint64(key[8:], maphash.String(u.seeds[1], id))
	}
	s := &u.shards[hash%useShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	recorded, ok := s.uses[key]
	if !ok && !s.makeSpace() {
		s.dropped++
		return
	}
	if !ok && !isUUID {
		s.names[key] = strings.Clone(id) // because id may be a part of a larger string in a cache entry
	}
	recorded.allowed += allowed
	recorded.denied += denied
	recorded.last = max(recorded.last, at)
	s.uses[key] = recorded
}

// makeSpace prepares the shard for another token. If the shard is full, it forgets all tokens whose uses are written. Their next use
// is then written earlier than necessary.
func (s *useShard) makeSpace() bool {
	if s.uses == nil {
		s.uses, s.names = make(map[useKey]use), make(map[useKey]string)
	}
	if len(s.uses) < maxUsesPerShard || s.full {
		return !s.full
	}
	for key, recorded := range s.uses {
		if !recorded.unwritten() {
			s.forget(key)
		}
	}
	s.full = len(s.uses) == maxUsesPerShard
	return !s.full
}

func (s *useShard) forget(key useKey) {
	delete(s.uses, key)
	delete(s.names, key)
}

// appendDue appends the rows to write now. If `all` is set, these are all unwritten uses. It forgets tokens that were not used for
// some time.
func (s *useShard) appendDue(rows []row, now ticks, all bool) []row {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, recorded := range s.uses {
		counts := recorded.countsDue(now) || all
		switch {
		case recorded.noteDue() || counts && recorded.unwritten():
			r := row{key: key, shard: s, id: s.names[key], last: recorded.last}
			if counts {
				r.allowed, r.denied = recorded.allowed, recorded.denied
			}
			if r.id == "" {
				r.id = key.String()
			}
			rows = append(rows, r)
		case !recorded.unwritten() && now-max(recorded.noted, recorded.counted) >= ticks(countInterval/tick):
			s.forget(key)
		}
	}
	return rows
}

// written stores that the row is written.
func (r row) written(now ticks) {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	recorded := r.shard.uses[r.key] // still there, because it was unwritten
	recorded.noted = max(recorded.noted, r.last)
	if r.allowed != 0 || r.denied != 0 {
		recorded.allowed -= r.allowed
		recorded.denied -= r.denied
		recorded.counted = now
	}
	r.shard.uses[r.key] = recorded
	r.shard.full = false
}

// unwritten returns the number of tokens with an unwritten use.
func (u *uses) unwritten() (n int) {
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		for _, recorded := range s.uses {
			if recorded.unwritten() {
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// takeDropped returns the number of requests that were dropped since the last call.
func (u *uses) takeDropped() (n int) {
	for i := range u.shards {
		s := &u.shards[i]
		s.mu.Lock()
		n += s.dropped
		s.dropped = 0
		s.mu.Unlock()
	}
	return n
}

// parseUUID parses a UUID in the form that Postgres writes. In other forms, the id has other text, so it is another id.
func parseUUID(s string) (key useKey, ok bool) {
	if len(s) != 36 {
		return key, false
	}
	n := 0
	for i := 0; i < len(s); i += 2 {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return key, false
			}
			i++
		}
		high, low := hexDigit(s[i]), hexDigit(s[i+1])
		if high|low > 15 {
			return key, false
		}
		key[n] = high<<4 | low
		n++
	}
	return key, true
}

// hexDigit returns the value of a lower-case hexadecimal digit, or 255.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

func (k useKey) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", k[:4], k[4:6], k[6:8], k[8:10], k[10:])
}
