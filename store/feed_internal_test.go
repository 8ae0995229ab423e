package store

import (
	"testing"
	"time"
)

// Whoever looks at the schema goes on to do so at each reading, also after the second reading that a takeover brings; when it
// stops, another one takes over before its own lease ends.
func TestOneSidecarLooksAtTheSchema(t *testing.T) {
	const interval, bound = 2 * time.Second, 7 * time.Second
	for offset := 10 * time.Millisecond; offset < interval; offset += 10 * time.Millisecond {
		world := -time.Hour // when the schema was looked at
		looked := [2]time.Duration{-2 * time.Hour, -2 * time.Hour}
		lease := [2]time.Duration{}
		looks := [2]int{}
		read := func(who int, now time.Duration) {
			lease[who] = world + bound
			look, takesOver := turn(now-world, now-looked[who], interval)
			if !look {
				return
			}
			world, looked[who] = now, now
			looks[who]++
			if takesOver {
				lease[who] = world + bound
				if again, _ := turn(0, 0, interval); again {
					t.Fatal("it looks twice at once")
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
		if looks[0] != died || looks[1] < ticks-died-2 {
			t.Errorf("offset %v: the first one looked %d times in %d readings, the second one %d times in %d", offset, looks[0], died, looks[1], ticks-died)
		}
	}
}
