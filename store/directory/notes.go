package directory

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// notes stores which tokens were noted in the last minNoteInterval (61 s). To note a token means to record its use. The use is
// written to the database later. The 2 MiB of notes are enough for about 200,000 tokens. If more tokens are in use, some are noted
// again too early, and the database ignores these uses. Two tokens count as the same token if 48 bits of their hashes are equal.
// notes uses no lock and allocates nothing.
type notes struct {
	seed    maphash.Seed
	buckets *[1 << 16][4]atomic.Uint64 // each value is 32 bits of a token's hash, then the time of the note in ticks; 0 if free
}

// tick is 1/16 s. A time in ticks has 32 bits, which are enough for eight years.
const tick = time.Second / 16

const timeMask = 1<<32 - 1 // selects the time in a value of a bucket

func newNotes() notes {
	return notes{seed: maphash.MakeSeed(), buckets: new([1 << 16][4]atomic.Uint64)}
}

// note reports whether to note the token now, and if so, stores the time of the note. If several goroutines call note for the same
// token at the same time, only one call returns true.
func (s *notes) note(id string, now time.Duration) bool {
	hash := maphash.String(s.seed, id)
	hashBits := hash >> 32
	at := uint64(now/tick) + 1 //nolint:gosec // not negative
	bucket := &s.buckets[hash%uint64(len(s.buckets))]
	for {
		oldest, oldestValue := 0, ^uint64(0)
		for i := range bucket {
			v := bucket[i].Load()
			if notedAt := v & timeMask; notedAt != 0 && v>>32 == hashBits {
				return time.Duration(at-notedAt)*tick >= minNoteInterval && bucket[i].CompareAndSwap(v, hashBits<<32|at) //nolint:gosec // a short time
			}
			if v&timeMask < oldestValue&timeMask {
				oldest, oldestValue = i, v
			}
		}
		if bucket[oldest].CompareAndSwap(oldestValue, hashBits<<32|at) {
			return true
		}
	}
}
