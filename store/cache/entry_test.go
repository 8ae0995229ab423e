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

// whole is a question with its answer: all that an entry has to keep.
type whole struct {
	Lookup authz.Lookup
	Found  authz.Found
}

// leaves calls f with each value inside v that is no struct.
func leaves(v reflect.Value, name string, f func(name string, leaf reflect.Value)) {
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			leaves(v.Field(i), name+"."+v.Type().Field(i).Name, f)
		}
		return
	}
	f(name, v)
}

// fill sets a value that no other leaf has.
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
		leaf.SetString(name + strings.Repeat("x", len(name)*13)) // some lengths take two bytes
	case reflect.Bool:
		leaf.SetBool(true)
	case reflect.Int64:
		leaf.SetInt(int64(len(name)))
	default:
		t.Fatalf("%s: a test for a %v is missing", name, leaf.Type())
	}
}

// An entry gives back its question and its answer as they were, field by field, also beside an entry that differs in one field.
func TestEntryKeepsEveryField(t *testing.T) {
	c := &Cache{sharing: sharing{seed: maphash.MakeSeed()}}
	var full whole
	leaves(reflect.ValueOf(&full).Elem(), "", func(name string, leaf reflect.Value) { fill(t, name, leaf) })
	full.Found.Denial = "" // only a good answer has a user
	kept := func(w whole) *entry {
		keys := []Key{1, 1 << 31, 77}
		return c.newEntry(w.Lookup, Answer{Found: w.Found, Keys: keys}, 0, 0)
	}
	check := func(t *testing.T, e *entry, w whole) {
		t.Helper()
		found := w.Found
		found.Cache = authz.CacheHit
		if got := e.answer(0, authz.CacheHit); !reflect.DeepEqual(got, found) {
			t.Errorf("answer:\n%#v\nwant:\n%#v", got, found)
		}
		if got := e.question(); got != w.Lookup || !e.answers(w.Lookup) {
			t.Errorf("question:\n%#v\nwant:\n%#v", got, w.Lookup)
		}
	}
	first := kept(full)
	check(t, first, full)
	if again := kept(full); again.shared != first.shared || again.alone {
		t.Error("equal entries share nothing")
	}
	leaves(reflect.ValueOf(&full).Elem(), "", func(name string, leaf reflect.Value) {
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
			e := kept(full)
			check(t, e, full)
			if strings.HasPrefix(name, ".Lookup") && (e.answers(first.question()) || first.answers(full.Lookup)) {
				t.Error("the entry answers another question")
			}
			leaf.Set(before)
			check(t, first, full)
		})
	})
}

// An entry is out of date once any of its keys, or everything, has changed after it was loaded.
func TestEntryIsOutdated(t *testing.T) {
	c := &Cache{sharing: sharing{seed: maphash.MakeSeed()}}
	keys := []Key{0x01020304, 0xfffefdfc, 7, 0x80000000}
	for i, k := range keys {
		e := c.newEntry(authz.Lookup{}, Answer{Keys: keys}, c.generations.now(), 0)
		c.generations.changed([]Key{5, k + 1})
		if e.outdated(&c.generations) {
			t.Errorf("key %d: outdated by changes of other keys", i)
		}
		c.generations.changed([]Key{k})
		if !e.outdated(&c.generations) {
			t.Errorf("key %d: not outdated by its change", i)
		}
	}
	e := c.newEntry(authz.Lookup{}, Answer{}, c.generations.now(), 0)
	c.generations.changedAll()
	if !e.outdated(&c.generations) {
		t.Error("not outdated by a change of everything")
	}
}

// Sets of scopes that are told apart by nothing but the places between them are not shared.
func TestSharingTellsScopesApart(t *testing.T) {
	c := &Cache{sharing: sharing{seed: maphash.MakeSeed()}}
	sets := [][]string{nil, {}, {""}, {"a b"}, {"a", "b"}, {"a", "b", ""}, {"b", "a"}}
	for range 2 {
		for _, scopes := range sets {
			e := c.newEntry(authz.Lookup{}, Answer{Found: authz.Found{Principal: authz.Principal{Scopes: scopes}}}, 0, 0)
			if got := e.answer(0, "").Principal.Scopes; !reflect.DeepEqual(got, scopes) {
				t.Errorf("%#v instead of %#v", got, scopes)
			}
		}
	}
}

// heldBytes is the heap without garbage.
func heldBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far less
}

// MaxBytes is a limit, however often an answer is loaded: also where no two answers have anything in common, or each has it in
// common with a few.
func TestMaxBytesHold(t *testing.T) {
	const bytes = 4 << 20
	for name, kinds := range map[string]int{"nothing in common": 1 << 30, "pairs": 6000} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Config{MaxBytes: bytes}, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before := heldBytes()
			for i := range 12_000 {
				for range 2 {
					l := authz.Lookup{Digest: authz.Secret(fmt.Sprint(i)).Digest()}
					p := authz.Principal{ID: fmt.Sprintf("token-%020d", i)}
					for scope := range 20 {
						p.Scopes = append(p.Scopes, fmt.Sprintf("resource%d:write%d", scope, i%kinds))
					}
					c.remember(c.newEntry(l, Answer{Found: authz.Found{Principal: p}, Keys: []Key{1}}, 0, 0))
					c.good.entries.Wait()
				}
			}
			const places = len(c.sharing.places) * (2 << 10) // what no entry is charged for
			taken, told := heldBytes()-before, c.Stats().Good
			t.Logf("%d entries, %d KiB, %d KiB are told", told.Entries, taken>>10, told.Bytes>>10)
			if told.Bytes > bytes || taken > bytes*11/10+int64(places) {
				t.Errorf("%d bytes for a limit of %d; %d are told", taken, bytes, told.Bytes)
			}
			runtime.KeepAlive(c)
		})
	}
}

// What entries had in common is given up when none of them is there any more, so that others can share the place.
func TestSharingEnds(t *testing.T) {
	c := &Cache{sharing: sharing{seed: maphash.MakeSeed()}}
	of := func(scope string) *entry {
		return c.newEntry(authz.Lookup{}, Answer{Found: authz.Found{Principal: authz.Principal{Scopes: []string{scope}}}}, 0, 0)
	}
	first := of("first")
	place := func(s *shared) int { return slices.Index(c.sharing.places[:], s) }
	other := ""
	for i := 0; other == "" && i < 100_000; i++ { // another scope that belongs in the same place
		if e := of(fmt.Sprint(i)); e.alone {
			other = fmt.Sprint(i)
		} else if e.leave(); place(e.shared) == place(first.shared) {
			t.Fatal("the place was given away too early")
		}
	}
	second := of("first")
	first.leave()
	if e := of(other); !e.alone || second.shared != first.shared {
		t.Error("the place was given away while an entry used it")
	}
	second.leave()
	if e := of(other); e.alone || e.answer(0, "").Principal.Scopes[0] != other || first.answer(0, "").Principal.Scopes[0] != "first" {
		t.Error("the place was not given away")
	}
	if e := of(strings.Repeat("x", 4<<10)); !e.alone {
		t.Error("a large one is shared, and charged to nobody")
	}
}

// An answer that is loaded several times at once is not counted as one that was not let in.
func TestDroppedAreThoseThatWereNotLetIn(t *testing.T) {
	c, err := New(Config{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 2000 {
		l := authz.Lookup{Digest: authz.Secret(fmt.Sprint(i)).Digest()}
		for range 3 {
			c.remember(c.newEntry(l, Answer{}, 0, 0))
		}
	}
	c.good.entries.Wait()
	if s := c.Stats().Good; s.Entries != 2000 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}
