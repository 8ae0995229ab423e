package feed

import (
	"testing"
	"time"
)

// The sidecar that verifies the schema continues to do so at each reading, also after the second reading of a takeover. When it
// stops, another sidecar takes over before its own lease ends.
func TestOneSidecarVerifiesTheSchema(t *testing.T) {
	const interval, bound = 2 * time.Second, 7 * time.Second
	for offset := 10 * time.Millisecond; offset < interval; offset += 10 * time.Millisecond {
		world := -time.Hour // when the schema was last verified
		verified := [2]time.Duration{-2 * time.Hour, -2 * time.Hour}
		lease := [2]time.Duration{}
		count := [2]int{}
		read := func(sidecar int, now time.Duration) {
			lease[sidecar] = world + bound
			due, takesOver := verificationDue(now-world, now-verified[sidecar], interval)
			if !due {
				return
			}
			world, verified[sidecar] = now, now
			count[sidecar]++
			if takesOver {
				lease[sidecar] = world + bound
				if again, _ := verificationDue(0, 0, interval); again {
					t.Fatal("it verifies the schema twice at once")
				}
			}
		}
		const ticks, died = 40, 20
		for tick := range ticks {
			now := time.Duration(tick) * interval
			if tick < died {
				if tick > 0 && lease[0] < now {
					t.Fatalf("offset %v: the first one's lease ended at %v, before %v", offset, lease[0], now)
				}
				read(0, now)
			}
			if now += offset; tick > 0 && lease[1] < now {
				t.Fatalf("offset %v: the second one's lease ended at %v, before %v", offset, lease[1], now)
			}
			read(1, now)
		}
		if count[0] != died || count[1] < ticks-died-2 {
			t.Errorf("offset %v: the first one verified %d times in %d readings, the second one %d times in %d", offset, count[0], died, count[1], ticks-died)
		}
	}
}
