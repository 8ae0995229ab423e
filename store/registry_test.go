package store_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store"
)

func TestWorkspaces(t *testing.T) {
	f := newFixture(t)
	if !regexp.MustCompile(`^[0-9a-f]{24}$`).MatchString(f.acme.ID) || f.acme.ID == f.globex.ID {
		t.Errorf("the ids made up are %q and %q", f.acme.ID, f.globex.ID)
	}
	const id = "64f1a2b3c4d5e6f7a8b9c0d1"
	initech := must(f.CreateWorkspace(t.Context(), store.Workspace{ID: id, Slug: "initech", Name: "Initech"}))
	if initech.ID != id || initech.CreatedAt.IsZero() {
		t.Errorf("created %+v", initech)
	}
	list := must(f.Workspaces(t.Context()))
	if want := []store.Workspace{f.acme, f.globex, initech}; !slices.Equal(list, want) {
		t.Errorf("the list is %+v, want %+v", list, want)
	}
	for _, ref := range []string{id, "initech"} {
		if w, err := f.Workspace(t.Context(), ref); err != nil || w != initech {
			t.Errorf("%s: %+v, %v", ref, w, err)
		}
	}
	// A slug may look like an id.
	must(f.CreateWorkspace(t.Context(), store.Workspace{Slug: id, Name: "x"}))
	if w, err := f.Workspace(t.Context(), id); err != nil || w != initech {
		t.Errorf("an id that is another's slug: %+v, %v", w, err)
	}
}

func TestUsers(t *testing.T) {
	f := newFixture(t)
	if f.ada.ID == "" || f.ada.CreatedAt.IsZero() || f.bob.ID != "auth0|bob" {
		t.Errorf("created %+v and %+v", f.ada, f.bob)
	}
	if list := must(f.Users(t.Context())); !slices.Equal(list, []store.User{f.ada, f.bob}) {
		t.Errorf("the list is %+v", list)
	}
	for _, ref := range []string{f.ada.ID, "Ada@example.com", "ada@EXAMPLE.com"} {
		if u, err := f.User(t.Context(), ref); err != nil || u != f.ada {
			t.Errorf("%s: %+v, %v", ref, u, err)
		}
	}
	must(f.CreateUser(t.Context(), store.User{ID: "bob@example.com", Email: "other@example.com"}))
	if u := must(f.User(t.Context(), "bob@example.com")); u.Email != "other@example.com" {
		t.Errorf("an id that is another's email: %+v", u)
	}
}

func TestMembers(t *testing.T) {
	f := newFixture(t)
	member := func(w store.Workspace, u store.User, role string) store.Member {
		return store.Member{WorkspaceID: w.ID, WorkspaceSlug: w.Slug, UserID: u.ID, Email: u.Email, Role: role}
	}
	adaInAcme, bobInAcme := member(f.acme, f.ada, "admin"), member(f.acme, f.bob, "member")
	adaInGlobex := member(f.globex, f.ada, "guest")
	if m := must(f.SetMember(t.Context(), f.acme.ID, "BOB@example.com", "member")); m != bobInAcme {
		t.Errorf("set %+v", m)
	}
	if list := must(f.Members(t.Context(), "")); !slices.Equal(list, []store.Member{adaInAcme, bobInAcme, adaInGlobex}) {
		t.Errorf("all members are %+v", list)
	}
	must(f.SetMember(t.Context(), "acme", f.ada.ID, "owner"))
	must(f.SetMember(t.Context(), "acme", f.ada.ID, "owner"))
	adaInAcme.Role = "owner"
	if err := f.RemoveMember(t.Context(), "acme", f.bob.ID); err != nil {
		t.Fatal(err)
	}
	if list := must(f.Members(t.Context(), f.acme.ID)); !slices.Equal(list, []store.Member{adaInAcme}) {
		t.Errorf("the members of acme are %+v", list)
	}
}

func TestRegistryRefusesInOneSentence(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	workspace := func(w store.Workspace) error { _, err := f.CreateWorkspace(ctx, w); return err }
	user := func(u store.User) error { _, err := f.CreateUser(ctx, u); return err }
	member := func(w, u, role string) error { _, err := f.SetMember(ctx, w, u, role); return err }
	for _, c := range []struct {
		name string
		got  error
		kind error
		want string
	}{
		{"workspace id taken", workspace(store.Workspace{ID: f.acme.ID, Slug: "x", Name: "x"}), store.ErrExists, "is taken"},
		{"slug taken", workspace(store.Workspace{Slug: "acme", Name: "x"}), store.ErrExists, `the slug "acme" is taken`},
		{"id too short", workspace(store.Workspace{ID: "64f1", Slug: "x", Name: "x"}), store.ErrInvalid, "24 lower-case hex"},
		{"id in capitals", workspace(store.Workspace{ID: strings.ToUpper("64f1a2b3c4d5e6f7a8b9c0d1"), Slug: "x", Name: "x"}),
			store.ErrInvalid, "24 lower-case hex"},
		{"id with a line behind", workspace(store.Workspace{ID: f.acme.ID + "\n", Slug: "x", Name: "x"}),
			store.ErrInvalid, "24 lower-case hex"},
		{"slug in capitals", workspace(store.Workspace{Slug: "Acme", Name: "x"}), store.ErrInvalid, "a-z, 0-9 and -"},
		{"slug with a dash first", workspace(store.Workspace{Slug: "-a", Name: "x"}), store.ErrInvalid, "a-z, 0-9 and -"},
		{"slug too long", workspace(store.Workspace{Slug: strings.Repeat("a", 64), Name: "x"}), store.ErrInvalid, "1 to 63"},
		{"no slug", workspace(store.Workspace{Name: "x"}), store.ErrInvalid, "1 to 63"},
		{"no name", workspace(store.Workspace{Slug: "x", Name: " "}), store.ErrInvalid, "name"},
		{"a name that moves the cursor", workspace(store.Workspace{Slug: "x", Name: "\x1b[2J"}), store.ErrInvalid, "name"},
		{"user id taken", user(store.User{ID: f.bob.ID, Email: "x@example.com"}), store.ErrExists, "is taken"},
		{"email taken", user(store.User{Email: f.bob.Email}), store.ErrExists, "is taken"},
		{"email taken in capitals", user(store.User{Email: strings.ToUpper(f.bob.Email)}), store.ErrExists, "is taken"},
		{"no email", user(store.User{}), store.ErrInvalid, "email"},
		{"an email with a blank", user(store.User{Email: "a b@example.com"}), store.ErrInvalid, "email"},
		{"an email with a line", user(store.User{Email: "a@example.com\nx"}), store.ErrInvalid, "email"},
		{"a user id with a line", user(store.User{ID: "a\r\nx: y", Email: "x@example.com"}), store.ErrInvalid, "user id"},
		{"a user id too long", user(store.User{ID: strings.Repeat("a", 256), Email: "x@example.com"}),
			store.ErrInvalid, "255"},
		{"member of no workspace", member("nowhere", f.bob.ID, "member"), store.ErrNotFound, `no workspace "nowhere"`},
		{"member nobody", member("acme", "nobody", "member"), store.ErrNotFound, `no user "nobody"`},
		{"no role", member("acme", f.bob.ID, ""), store.ErrInvalid, "role"},
		{"a role in capitals", member("acme", f.bob.ID, "Admin"), store.ErrInvalid, "role"},
		{"removing nobody", f.RemoveMember(ctx, "acme", "nobody"), store.ErrNotFound, `no user "nobody"`},
		{"removing no member", f.RemoveMember(ctx, "acme", f.bob.ID), store.ErrNotFound, `no member of the workspace "acme"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !errors.Is(c.got, c.kind) || !strings.Contains(c.got.Error(), c.want) {
				t.Fatalf("got %v, want %v with %q", c.got, c.kind, c.want)
			}
			if text := c.got.Error(); strings.Contains(text, "pq:") || strings.Contains(text, "\n") {
				t.Errorf("that is not a sentence for the operator: %q", text)
			}
		})
	}
}

func TestOpenRegistryFailsClearly(t *testing.T) {
	empty := emptyDatabase(t)
	behind := newFixture(t)
	behind.exec(t, `DELETE FROM keywicket.migrations
		WHERE version_id = (SELECT max(version_id) FROM keywicket.migrations)`)
	ahead := newFixture(t)
	ahead.exec(t, `INSERT INTO keywicket.migrations (version_id, is_applied) VALUES (99999, true)`)
	unreachable := must(url.Parse(empty))
	unreachable.Host = "127.0.0.1:1"
	wrongPassword := must(url.Parse(empty))
	wrongPassword.User = url.UserPassword("postgres", "geheim")
	for _, c := range []struct {
		name, url string
		kind      error
		want      string
	}{
		{"no schema", empty, store.ErrNotMigrated, "no schema keywicket yet: run `keywicket migrate up`"},
		{"a schema that is behind", behind.url, store.ErrNotMigrated, "1 migrations behind: run `keywicket migrate up`"},
		{"nothing listens", unreachable.String(), store.ErrUnreachable, "connection refused"},
		{"wrong password", wrongPassword.String(), store.ErrUnreachable, "password authentication failed"},
		{"no such database", server.URL("nonesuch"), store.ErrUnreachable, `"nonesuch" does not exist`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := store.OpenRegistry(t.Context(), c.url)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.want)
			}
		})
	}
	r, err := store.OpenRegistry(t.Context(), ahead.url)
	if err != nil {
		t.Fatalf("a schema that a later version migrated: %v", err)
	}
	_ = r.Close()
}

func TestListsAreJSONArrays(t *testing.T) {
	url := copyOf(t, template)
	r := must(store.OpenRegistry(t.Context(), url))
	defer func() { _ = r.Close() }()
	for name, list := range map[string]any{
		"workspaces": must(r.Workspaces(t.Context())), "users": must(r.Users(t.Context())),
		"members": must(r.Members(t.Context(), "")), "tokens": must(r.Tokens(t.Context(), store.TokenFilter{})),
	} {
		if b := must(json.Marshal(list)); string(b) != "[]" {
			t.Errorf("no %s are %s", name, b)
		}
	}
}
