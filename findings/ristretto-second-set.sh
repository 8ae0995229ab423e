#!/usr/bin/env bash
# github.com/dgraph-io/ristretto/v2 2.4.2: a second Set of a new key can have no effect, although it returns true.
#
# Set returns true for a new key, and a goroutine adds the key to the cache later. If Set is called again before the goroutine has
# added the key, Set also returns true. But the cache discards the newer value and keeps the older value. Wait does not change
# this. OnReject is called for the newer value, although the cache has room for both values and evicts nothing.
#
# Seen: 1,000 keys are set to "old" and then to "new" on one processor. Each Set returns true. After Wait, all keys have the value
# "old", and OnReject was called 1,000 times. With Wait after each Set, all keys have the value "new".
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding
go 1.24
require github.com/dgraph-io/ristretto/v2 v2.4.2
MOD
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

func main() {
	runtime.GOMAXPROCS(1) // so that the other goroutine does not run between the two calls
	var rejected atomic.Int64
	cache, err := ristretto.NewCache(&ristretto.Config[int, string]{
		NumCounters: 100_000, MaxCost: 1 << 20, BufferItems: 64, IgnoreInternalCost: true,
		OnReject: func(*ristretto.Item[string]) { rejected.Add(1) },
	})
	if err != nil {
		panic(err)
	}
	taken, old := 0, 0
	for key := range 1000 {
		for _, value := range []string{"old", "new"} {
			if cache.Set(key, value, 1) {
				taken++
			}
			if len(os.Args) > 1 {
				cache.Wait()
			}
		}
	}
	cache.Wait()
	for key := range 1000 {
		if value, ok := cache.Get(key); ok && value == "old" {
			old++
		}
	}
	fmt.Println(taken, "taken,", old, "old,", rejected.Load(), "rejected")
}
GO
go mod tidy > /dev/null 2>&1
seen=$(go run .)
waiting=$(go run . wait)
echo "one after the other: $seen"
echo "with Wait after each: $waiting"
if [ "$seen" = "2000 taken, 1000 old, 1000 rejected" ] && [ "$waiting" = "2000 taken, 0 old, 0 rejected" ]; then
  echo "as described"
  exit 0
fi
echo "CHANGED"
exit 1
