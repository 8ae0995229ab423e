package cache_test

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// state is the content of the database: three tokens, the roles of one user in two workspaces, and the slugs of these workspaces.
// The field `personal` of a token is true if the token belongs to the user, not to the first workspace.
type state struct {
	tokens [3]token
	roles  [2]string // the user's roles in the two workspaces; an empty role means that the user is not a member
	slugs  [2]string // slugs of the two workspaces
}

type token struct {
	exists, revoked, personal bool

	version int           // version of the token's row
	expires time.Duration // 0: never
}

var firstState = state{
	tokens: [3]token{{exists: true}, {exists: true, personal: true}, {personal: true}},
	roles:  [2]string{"v0", ""},
	slugs:  [2]string{"acme", "blue"},
}

// rows is a set of rows of a state: first the tokens, then the roles, and then the slugs.
type rows [7]bool

// changedRows returns the rows in which two states differ.
func changedRows(a, b state) (r rows) {
	for i := range a.tokens {
		r[i] = a.tokens[i] != b.tokens[i]
	}
	for i := range a.roles {
		r[3+i] = a.roles[i] != b.roles[i]
		r[5+i] = a.slugs[i] != b.slugs[i]
	}
	return r
}

// put copies the rows in the set r from another state.
func (s *state) put(r rows, from state) {
	for i := range s.tokens {
		if r[i] {
			s.tokens[i] = from.tokens[i]
		}
	}
	for i := range s.roles {
		if r[3+i] {
			s.roles[i] = from.roles[i]
		}
		if r[5+i] {
			s.slugs[i] = from.slugs[i]
		}
	}
}

// found returns the answer to the look-up, without its expiry, and the keys of the answer. The package lookup derives the same
// answer and the same keys from a row of its query.
func (s state) found(l authz.Lookup, suffix string) (authz.LookupResult, []cache.DependencyKey) {
	n, keys := tokenIndex(l.Digest, suffix), []cache.DependencyKey{cache.TokenKey(l.Digest)}
	t := s.tokens[n]
	switch {
	case !t.exists:
		return authz.LookupResult{Denial: authz.ReasonUnknown}, keys
	case t.revoked:
		return authz.LookupResult{Denial: authz.ReasonRevoked}, keys
	}
	f := authz.LookupResult{Principal: authz.Principal{
		ID: fmt.Sprintf("t%d", n), API: l.API, Scopes: []string{fmt.Sprintf("v%d", t.version)},
	}}
	if !t.personal {
		f.Workspace = authz.Membership{ID: "w0" + suffix, Slug: s.slugs[0] + suffix}
		return f, append(keys, cache.WorkspaceKey(f.Workspace.ID))
	}
	f.Principal.UserID = "u" + suffix
	keys = append(keys, cache.UserKey(f.Principal.UserID))
	if l.Workspace.Slug != "" {
		keys = append(keys, cache.SlugKey(l.Workspace.Slug))
	}
	for i, role := range s.roles {
		id, slug := fmt.Sprintf("w%d%s", i, suffix), s.slugs[i]+suffix
		if role != "" && (l.Workspace.ID == id || l.Workspace.Slug == slug) {
			f.Workspace = authz.Membership{ID: id, Slug: slug, Role: role}
			keys = append(keys, cache.WorkspaceKey(id))
		}
	}
	return f, keys
}

// answer returns the answer that a [cache.Source] returns. The TTL is a duration, so the difference between the clocks of the
// database and the cache does not matter. The model therefore has only one clock.
func (s state) answer(l authz.Lookup, suffix string, now time.Duration) cache.Answer {
	a := cache.Answer{}
	a.Result, a.Keys = s.found(l, suffix)
	n := tokenIndex(l.Digest, suffix)
	switch {
	case a.Result.Denial != "" || s.tokens[n].expires == 0:
	case now >= s.tokens[n].expires:
		a = cache.Answer{Result: authz.LookupResult{Denial: authz.ReasonExpired}, Keys: a.Keys[:1]}
	default:
		a.Expires, a.TTL = true, s.tokens[n].expires-now
	}
	return a
}

func (s state) expires(token int) time.Duration {
	if e := s.tokens[token].expires; e != 0 {
		return e
	}
	return math.MaxInt64
}

// modelLookup is a look-up without a suffix. Several schedules (test cases) use one cache, so each schedule adds its own suffix to
// the names of tokens, users and workspaces.
type modelLookup struct {
	token int
	ref   authz.WorkspaceRef
}

func (q modelLookup) String() string {
	return fmt.Sprintf("token %d in %q", q.token, cmp.Or(q.ref.ID, q.ref.Slug))
}

// lookup returns the look-up with the suffix of a schedule.
func (q modelLookup) lookup(suffix string) authz.Lookup {
	l := authz.Lookup{Digest: digest(q.token, suffix), API: "api"}
	if q.ref.ID != "" {
		l.Workspace.ID = q.ref.ID + suffix
	}
	if q.ref.Slug != "" {
		l.Workspace.Slug = q.ref.Slug + suffix
	}
	return l
}

func digest(token int, suffix string) authz.Digest {
	return sha256.Sum256(fmt.Appendf(nil, "token %d of %s", token, suffix))
}

func tokenIndex(d authz.Digest, suffix string) int {
	n := 0
	for digest(n, suffix) != d {
		n++
	}
	return n
}

var modelLookups = []modelLookup{
	{token: 0},
	{token: 1, ref: authz.WorkspaceRef{ID: "w0"}},
	{token: 1, ref: authz.WorkspaceRef{Slug: "acme"}},
	{token: 2},
	{token: 0, ref: authz.WorkspaceRef{ID: "w1"}}, // the requested workspace has no effect for this token
	{token: 1},
}

// change is one SQL statement. The field `do` is a function that changes the state. It returns the keys that the triggers write to
// the log. If it returns nil, everything may have changed.
type change struct {
	name string
	do   func(s *state, v changeValues) []cache.DependencyKey
}

type changeValues struct {
	suffix  string
	now     time.Duration
	version int // a version that no row has had before
}

var changes = []change{
	changeToken(0, "revoke or restore", func(t *token, _ time.Duration) { t.revoked = !t.revoked }),
	changeToken(1, "revoke or restore", func(t *token, _ time.Duration) { t.revoked = !t.revoked }),
	changeRole(0, "change", func(_, version string) string { return version }),
	changeToken(2, "create or delete", func(t *token, _ time.Duration) { t.exists = !t.exists }),
	changeRole(0, "remove or create", toggleRole),
	changeToken(0, "set the expiry of", func(t *token, now time.Duration) { t.expires = now + bound/2 }),
	changeToken(1, "set the expiry of", func(t *token, now time.Duration) { t.expires = now + 2*bound }),
	changeRole(1, "remove or create", toggleRole),
	{"move the slug", moveSlug},
	{"revoke or restore all tokens", func(s *state, v changeValues) []cache.DependencyKey {
		for i := range s.tokens {
			s.tokens[i].version = v.version
			s.tokens[i].revoked = !s.tokens[i].revoked
		}
		return nil
	}},
	{"change something else", func(_ *state, v changeValues) []cache.DependencyKey {
		return []cache.DependencyKey{cache.UserKey("another" + v.suffix)}
	}},
}

func changeToken(n int, verb string, do func(*token, time.Duration)) change {
	return change{fmt.Sprintf("%s token %d", verb, n), func(s *state, v changeValues) []cache.DependencyKey {
		s.tokens[n].version = v.version
		do(&s.tokens[n], v.now)
		return []cache.DependencyKey{cache.TokenKey(digest(n, v.suffix))}
	}}
}

func changeRole(workspace int, verb string, do func(role, version string) string) change {
	return change{fmt.Sprintf("%s the role in w%d", verb, workspace), func(s *state, v changeValues) []cache.DependencyKey {
		s.roles[workspace] = do(s.roles[workspace], fmt.Sprintf("v%d", v.version))
		return []cache.DependencyKey{cache.UserKey("u" + v.suffix)}
	}}
}

func toggleRole(role, version string) string {
	if role != "" {
		return ""
	}
	return version
}

// moveSlug gives the slug of one workspace to the other workspace. If this has already happened, it restores the first slugs.
func moveSlug(s *state, v changeValues) (keys []cache.DependencyKey) {
	before := s.slugs
	s.slugs = [2]string{"old", "acme"}
	if before == s.slugs {
		s.slugs = firstState.slugs
	}
	for i := range s.slugs {
		keys = append(keys, cache.WorkspaceKey(fmt.Sprintf("w%d%s", i, v.suffix)),
			cache.SlugKey(before[i]+v.suffix), cache.SlugKey(s.slugs[i]+v.suffix))
	}
	return keys
}
