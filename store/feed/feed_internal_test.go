package feed

import (
	"testing"
	"time"
)

// One sidecar verifies the schema at each of its readings. After this sidecar stops, the other sidecar takes over before its own
// lease expires. A sidecar that takes over verifies the schema, and then reads the log again at once. For this second
// reading, it does not verify the schema again.
func TestOneSidecarVerifiesTheSchema(t *testing.T) {
	const interval, bound = 2 * time.Second, 7 * time.Second
	for offset := 10 * time.Millisecond; offset < interval; offset += 10 * time.Millisecond {
		lastVerified := -time.Hour // time of the last verification of the schema
		ownVerified := [2]time.Duration{-2 * time.Hour, -2 * time.Hour}
		lease := [2]time.Duration{}
		verifications := [2]int{}
		read := func(sidecar int, now time.Duration) {
			lease[sidecar] = lastVerified + bound
			due, takesOver := verificationDue(now-lastVerified, now-ownVerified[sidecar], interval)
			if !due {
				return
			}
			lastVerified, ownVerified[sidecar] = now, now
			verifications[sidecar]++
			if takesOver {
				lease[sidecar] = lastVerified + bound
				if again, _ := verificationDue(0, 0, interval); again {
					t.Fatal("the sidecar verifies the schema twice in a row")
				}
			}
		}
		const ticks, stopTick = 40, 20
		for tick := range ticks {
			now := time.Duration(tick) * interval
			if tick < stopTick {
				if tick > 0 && lease[0] < now {
					t.Fatalf("offset %v: the first sidecar's lease expired at %v, before %v", offset, lease[0], now)
				}
				read(0, now)
			}
			if now += offset; tick > 0 && lease[1] < now {
				t.Fatalf("offset %v: the second sidecar's lease expired at %v, before %v", offset, lease[1], now)
			}
			read(1, now)
		}
		if verifications[0] != stopTick || verifications[1] < ticks-stopTick-2 {
			t.Errorf("offset %v: the first sidecar verified %d times in %d readings, the second sidecar %d times in %d readings", offset, verifications[0], stopTick, verifications[1], ticks-stopTick)
		}
	}
}
