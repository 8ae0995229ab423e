package cache_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// The cost of an entry must be at least the memory that the entry uses, so that max_bytes limits the memory.
func TestCost(t *testing.T) {
	for name, answer := range map[string]func(n int, l authz.Lookup) cache.Answer{
		"workspace token": workspaceToken, "personal key": personalKey, "attributes": withAttributes, "unknown": func(_ int, l authz.Lookup) cache.Answer {
			a, _ := unknownToken(t.Context(), l)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const entries = 20_000
				c := newCache(t, cache.Config{MaxBytes: 1 << 30}, &source{answer: func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
					return answer(int(binary.BigEndian.Uint64(l.Digest[:])), l), nil //nolint:gosec // small
				}})
				before := heap()
				for n := range entries {
					l := lookup(n)
					if name == "personal key" || name == "attributes" {
						l.Workspace.Slug = fmt.Sprintf("workspace-%d", n)
					}
					if _, err := c.Lookup(t.Context(), l); err != nil {
						t.Fatal(err)
					}
					if n%1000 == 0 {
						readLog(c, cache.Reply{})
						synctest.Wait()
					}
				}
				synctest.Wait()
				used := float64(heap()-before) / entries
				s := c.Stats()
				stored := s.Good
				if s.Denied.Entries > 0 {
					stored = s.Denied
				}
				cost := float64(stored.Bytes) / entries
				t.Logf("an entry uses %.0f bytes and costs %.0f", used, cost)
				if stored.Entries != entries || used > cost || used < 0.7*cost {
					t.Errorf("%d entries of %.0f bytes cost %.0f each", stored.Entries, used, cost)
				}
			})
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // a sync.Pool keeps its contents until the second collection
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// workspaceToken returns an answer in which every string is a separate allocation, as in an answer from the database driver.
func workspaceToken(n int, l authz.Lookup) cache.Answer {
	w := fmt.Sprintf("%024x", n)
	return cache.Answer{
		Result: authz.LookupResult{
			Principal: authz.Principal{
				ID:   fmt.Sprintf("%08x-0000-4000-8000-000000000000", n),
				Kind: authz.Kind(strings.Clone("workspace_token")), API: l.API, Environment: authz.Environment(strings.Clone("live")),
				Scopes: scopes(),
			},
			Workspace: authz.Membership{ID: w, Slug: fmt.Sprintf("workspace-%d", n)},
		},
		Expires: true, TTL: time.Hour,
		Keys: []cache.DependencyKey{cache.TokenKey(l.Digest), cache.WorkspaceKey(w)},
	}
}

func personalKey(n int, l authz.Lookup) cache.Answer {
	a := workspaceToken(n, l)
	p := &a.Result.Principal
	p.Kind, p.UserID = authz.Kind(strings.Clone("personal_key")), fmt.Sprintf("%08x-1111-4111-8111-111111111111", n)
	a.Result.Workspace.Role = strings.Clone("editor")
	a.Keys = append(a.Keys, cache.UserKey(p.UserID), cache.SlugKey(l.Workspace.Slug))
	return a
}

func withAttributes(n int, l authz.Lookup) cache.Answer {
	a := personalKey(n, l)
	text := func(length int) authz.Attributes { return authz.Attributes(strings.Repeat("a", length)) }
	a.Result.Principal.Attributes, a.Result.Principal.UserAttributes, a.Result.Workspace.Attributes = text(200), text(500), text(1500)
	return a
}

func scopes() []string {
	s := []string{"documents:read", "documents:write", "members:read", "settings:read"}
	for i := range s {
		s[i] = strings.Clone(s[i])
	}
	return s
}
