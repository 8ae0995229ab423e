package cache

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// record is a look-up with its answer. An entry must contain every field of both.
type record struct {
	Lookup authz.Lookup
	Found  authz.LookupResult
}

// eachLeaf calls f for each value inside v that is not a struct.
func eachLeaf(v reflect.Value, name string, f func(name string, leaf reflect.Value)) {
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			eachLeaf(v.Field(i), name+"."+v.Type().Field(i).Name, f)
		}
		return
	}
	f(name, v)
}

// fill sets a leaf to a value that no other leaf has.
func fill(t *testing.T, name string, leaf reflect.Value) {
	switch leaf.Interface().(type) {
	case authz.Digest:
		leaf.Set(reflect.ValueOf(authz.Secret(name).Digest()))
		return
	case []string:
		leaf.Set(reflect.ValueOf([]string{name, "", name + " again"}))
		return
	}
	switch leaf.Kind() {
	case reflect.String:
		leaf.SetString(name + strings.Repeat("x", len(name)*13)) // the text of an entry contains the length of each field, and some of these lengths need two bytes
	case reflect.Bool:
		leaf.SetBool(true)
	case reflect.Int64:
		leaf.SetInt(int64(len(name)))
	default:
		t.Fatalf("%s: a test for a %v is missing", name, leaf.Type())
	}
}

// An entry returns every field of its look-up and of its answer unchanged. This is also true if the cache contains another entry
// that differs in only one field.
func TestEntryKeepsEveryField(t *testing.T) {
	c := &Cache{common: commonTable{seed: maphash.MakeSeed()}}
	var full record
	eachLeaf(reflect.ValueOf(&full).Elem(), "", func(name string, leaf reflect.Value) { fill(t, name, leaf) })
	full.Found.Denial = "" // with a denial, the entry would not store the requested workspace
	entryOf := func(w record) *entry {
		keys := []DependencyKey{1, 1 << 31, 77}
		return c.newEntry(w.Lookup, Answer{Result: w.Found, Keys: keys}, 0, 0)
	}
	check := func(t *testing.T, e *entry, w record) {
		t.Helper()
		found := w.Found
		found.Cache = authz.CacheHit
		if got := e.answer(0, authz.CacheHit); !reflect.DeepEqual(got, found) {
			t.Errorf("answer:\n%#v\nwant:\n%#v", got, found)
		}
		if got := e.lookup(); got != w.Lookup || !e.answers(w.Lookup) {
			t.Errorf("look-up:\n%#v\nwant:\n%#v", got, w.Lookup)
		}
	}
	first := entryOf(full)
	check(t, first, full)
	if again := entryOf(full); again.common != first.common || again.ownCommonFields {
		t.Error("two entries with equal commonFields do not use the same value")
	}
	eachLeaf(reflect.ValueOf(&full).Elem(), "", func(name string, leaf reflect.Value) {
		if name == ".Found.Denial" {
			return
		}
		t.Run(name, func(t *testing.T) {
			before := reflect.ValueOf(leaf.Interface())
			defer leaf.Set(before)
			fill(t, name+"'", leaf)
			if leaf.Kind() == reflect.Bool {
				leaf.SetBool(false)
			}
			e := entryOf(full)
			check(t, e, full)
			if strings.HasPrefix(name, ".Lookup") && (e.answers(first.lookup()) || first.answers(full.Lookup)) {
				t.Error("the entry answers another look-up")
			}
			leaf.Set(before)
			check(t, first, full)
		})
	})
}

// An entry depends on rows, and each row has a DependencyKey. The entry is outdated if one of these rows has changed since the
// load, or if any row may have changed.
func TestEntryIsOutdated(t *testing.T) {
	c := &Cache{common: commonTable{seed: maphash.MakeSeed()}}
	keys := []DependencyKey{0x01020304, 0xfffefdfc, 7, 0x80000000}
	for i, k := range keys {
		e := c.newEntry(authz.Lookup{}, Answer{Keys: keys}, c.generations.lastNumber(), 0)
		c.generations.recordChange([]DependencyKey{5, k + 1})
		if e.outdated(&c.generations) {
			t.Errorf("key %d: the entry is outdated by changes of rows with other keys", i)
		}
		c.generations.recordChange([]DependencyKey{k})
		if !e.outdated(&c.generations) {
			t.Errorf("key %d: the entry is not outdated by a change of the row with this key", i)
		}
	}
	e := c.newEntry(authz.Lookup{}, Answer{}, c.generations.lastNumber(), 0)
	c.generations.recordChangeOfAll()
	if !e.outdated(&c.generations) {
		t.Error("the entry is not outdated by a change of everything")
	}
}

// Entries use the same scopes only if the lists are equal. The order matters, and the list [a b] with one scope differs from the
// list [a, b] with two scopes.
func TestCommonFieldsDistinguishScopes(t *testing.T) {
	c := &Cache{common: commonTable{seed: maphash.MakeSeed()}}
	sets := [][]string{nil, {}, {""}, {"a b"}, {"a", "b"}, {"a", "b", ""}, {"b", "a"}}
	for range 2 {
		for _, scopes := range sets {
			e := c.newEntry(authz.Lookup{}, Answer{Result: authz.LookupResult{Principal: authz.Principal{Scopes: scopes}}}, 0, 0)
			if got := e.answer(0, "").Principal.Scopes; !reflect.DeepEqual(got, scopes) {
				t.Errorf("%#v instead of %#v", got, scopes)
			}
		}
	}
}

// liveHeap returns the size of the heap in bytes after garbage collection.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // a sync.Pool keeps its contents until the second collection
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // the heap is far smaller than math.MaxInt64
}

// MaxBytes limits the memory, no matter how often answers are loaded. The limit also applies if no two answers have the same
// scopes, and if each set of scopes belongs to only two answers.
func TestMaxBytesIsALimit(t *testing.T) {
	const bytes = 4 << 20
	for name, groups := range map[string]int{"no common scopes": 1 << 30, "pairs with common scopes": 6000} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Config{MaxBytes: bytes}, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before := liveHeap()
			for i := range 12_000 {
				for range 2 {
					l := authz.Lookup{Digest: authz.Secret(fmt.Sprint(i)).Digest()}
					p := authz.Principal{ID: fmt.Sprintf("token-%020d", i)}
					for scope := range 20 {
						p.Scopes = append(p.Scopes, fmt.Sprintf("resource%d:write%d", scope, i%groups))
					}
					c.store(c.newEntry(l, Answer{Result: authz.LookupResult{Principal: p}, Keys: []DependencyKey{1}}, 0, 0))
					c.good.entries.Wait()
				}
			}
			const slots = len(c.common.slots) * (2 << 10) // memory of the commonTable in bytes, which the cost of entries does not include
			used, stats := liveHeap()-before, c.Stats().Good
			t.Logf("%d entries use %d KiB; Stats reports %d KiB", stats.Entries, used>>10, stats.Bytes>>10)
			if stats.Bytes > bytes || used > bytes*11/10+int64(slots) {
				t.Errorf("the limit is %[2]d bytes, but the entries use %[1]d, and Stats reports %[3]d", used, bytes, stats.Bytes)
			}
			runtime.KeepAlive(c)
		})
	}
}

// If no entry uses the value in a slot of the commonTable any more, another value can use the slot.
func TestUnusedSlotIsReused(t *testing.T) {
	c := &Cache{common: commonTable{seed: maphash.MakeSeed()}}
	entryWithScope := func(scope string) *entry {
		return c.newEntry(authz.Lookup{}, Answer{Result: authz.LookupResult{Principal: authz.Principal{Scopes: []string{scope}}}}, 0, 0)
	}
	first := entryWithScope("first")
	slot := func(s *commonFields) int { return slices.Index(c.common.slots[:], s) }
	other := ""
	for i := 0; other == "" && i < 100_000; i++ { // find another scope that hashes to the same slot
		if e := entryWithScope(fmt.Sprint(i)); e.ownCommonFields {
			other = fmt.Sprint(i)
		} else if e.release(); slot(e.common) == slot(first.common) {
			t.Fatal("the slot was reused while an entry used it")
		}
	}
	second := entryWithScope("first")
	first.release()
	if e := entryWithScope(other); !e.ownCommonFields || second.common != first.common {
		t.Error("the slot was reused while the second entry used it")
	}
	second.release()
	if e := entryWithScope(other); e.ownCommonFields || e.answer(0, "").Principal.Scopes[0] != other || first.answer(0, "").Principal.Scopes[0] != "first" {
		t.Error("the slot was not reused")
	}
	if e := entryWithScope(strings.Repeat("x", 4<<10)); !e.ownCommonFields {
		t.Error("a large value is in the table, so its memory is not counted in the cost of any entry")
	}
}

// If the same answer is stored several times, no entry counts as dropped.
func TestRepeatedAnswersDoNotCountAsDropped(t *testing.T) {
	c, err := New(Config{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 2000 {
		l := authz.Lookup{Digest: authz.Secret(fmt.Sprint(i)).Digest()}
		for range 3 {
			c.store(c.newEntry(l, Answer{}, 0, 0))
		}
	}
	c.good.entries.Wait()
	if s := c.Stats().Good; s.Entries != 2000 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}
