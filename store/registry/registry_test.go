package registry_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestWorkspaces(t *testing.T) {
	f := storetest.NewFixture(t)
	if !regexp.MustCompile(`^[0-9a-f]{24}$`).MatchString(f.Acme.ID) || f.Acme.ID == f.Globex.ID {
		t.Errorf("the generated ids are %q and %q", f.Acme.ID, f.Globex.ID)
	}
	const id = "64f1a2b3c4d5e6f7a8b9c0d1"
	initech := storetest.Must(f.CreateWorkspace(t.Context(), registry.Workspace{ID: id, Slug: "initech", Name: "Initech"}))
	if initech.ID != id || initech.CreatedAt.IsZero() {
		t.Errorf("created %+v", initech)
	}
	list := storetest.Must(f.Workspaces(t.Context()))
	if want := []registry.Workspace{f.Acme, f.Globex, initech}; !slices.Equal(list, want) {
		t.Errorf("the list is %+v, want %+v", list, want)
	}
	for _, ref := range []string{id, "initech"} {
		if w, err := f.Workspace(t.Context(), ref); err != nil || w != initech {
			t.Errorf("%s: %+v, %v", ref, w, err)
		}
	}
	// A slug may look like an id.
	storetest.Must(f.CreateWorkspace(t.Context(), registry.Workspace{Slug: id, Name: "x"}))
	if w, err := f.Workspace(t.Context(), id); err != nil || w != initech {
		t.Errorf("an id that is also a slug: %+v, %v", w, err)
	}
}

func TestUsers(t *testing.T) {
	f := storetest.NewFixture(t)
	if f.Ada.ID == "" || f.Ada.CreatedAt.IsZero() || f.Bob.ID != "auth0|bob" {
		t.Errorf("created %+v and %+v", f.Ada, f.Bob)
	}
	if list := storetest.Must(f.Users(t.Context())); !slices.Equal(list, []registry.User{f.Ada, f.Bob}) {
		t.Errorf("the list is %+v", list)
	}
	for _, ref := range []string{f.Ada.ID, "Ada@example.com", "ada@EXAMPLE.com"} {
		if u, err := f.User(t.Context(), ref); err != nil || u != f.Ada {
			t.Errorf("%s: %+v, %v", ref, u, err)
		}
	}
	storetest.Must(f.CreateUser(t.Context(), registry.User{ID: "bob@example.com", Email: "other@example.com"}))
	if u := storetest.Must(f.User(t.Context(), "bob@example.com")); u.Email != "other@example.com" {
		t.Errorf("an id that is also an email: %+v", u)
	}
}

func TestMembers(t *testing.T) {
	f := storetest.NewFixture(t)
	member := func(w registry.Workspace, u registry.User, role string) registry.Member {
		return registry.Member{WorkspaceID: w.ID, WorkspaceSlug: w.Slug, UserID: u.ID, Email: u.Email, Role: role}
	}
	adaInAcme, bobInAcme := member(f.Acme, f.Ada, "admin"), member(f.Acme, f.Bob, "member")
	adaInGlobex := member(f.Globex, f.Ada, "guest")
	if m := storetest.Must(f.SetMember(t.Context(), f.Acme.ID, "BOB@example.com", "member")); m != bobInAcme {
		t.Errorf("set %+v", m)
	}
	if list := storetest.Must(f.Members(t.Context(), "")); !slices.Equal(list, []registry.Member{adaInAcme, bobInAcme, adaInGlobex}) {
		t.Errorf("all members are %+v", list)
	}
	storetest.Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "owner"))
	storetest.Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "owner"))
	adaInAcme.Role = "owner"
	if err := f.RemoveMember(t.Context(), "acme", f.Bob.ID); err != nil {
		t.Fatal(err)
	}
	if list := storetest.Must(f.Members(t.Context(), f.Acme.ID)); !slices.Equal(list, []registry.Member{adaInAcme}) {
		t.Errorf("the members of acme are %+v", list)
	}
}

func TestRegistryRefusalsAreOneSentence(t *testing.T) {
	f := storetest.NewFixture(t)
	ctx := t.Context()
	workspace := func(w registry.Workspace) error { _, err := f.CreateWorkspace(ctx, w); return err }
	user := func(u registry.User) error { _, err := f.CreateUser(ctx, u); return err }
	member := func(w, u, role string) error { _, err := f.SetMember(ctx, w, u, role); return err }
	for _, c := range []struct {
		name string
		got  error
		kind error
		want string
	}{
		{"workspace id taken", workspace(registry.Workspace{ID: f.Acme.ID, Slug: "x", Name: "x"}), database.ErrExists, "is taken"},
		{"slug taken", workspace(registry.Workspace{Slug: "acme", Name: "x"}), database.ErrExists, `the slug "acme" is taken`},
		{"id too short", workspace(registry.Workspace{ID: "64f1", Slug: "x", Name: "x"}), database.ErrInvalid, "24 lower-case hex"},
		{"id in upper case", workspace(registry.Workspace{ID: strings.ToUpper("64f1a2b3c4d5e6f7a8b9c0d1"), Slug: "x", Name: "x"}),
			database.ErrInvalid, "24 lower-case hex"},
		{"id with a line break", workspace(registry.Workspace{ID: f.Acme.ID + "\n", Slug: "x", Name: "x"}),
			database.ErrInvalid, "24 lower-case hex"},
		{"slug in upper case", workspace(registry.Workspace{Slug: "Acme", Name: "x"}), database.ErrInvalid, "a-z, 0-9 and -"},
		{"slug that starts with a dash", workspace(registry.Workspace{Slug: "-a", Name: "x"}), database.ErrInvalid, "a-z, 0-9 and -"},
		{"slug too long", workspace(registry.Workspace{Slug: strings.Repeat("a", 64), Name: "x"}), database.ErrInvalid, "1 to 63"},
		{"no slug", workspace(registry.Workspace{Name: "x"}), database.ErrInvalid, "1 to 63"},
		{"no name", workspace(registry.Workspace{Slug: "x", Name: " "}), database.ErrInvalid, "name"},
		{"a name with an escape sequence", workspace(registry.Workspace{Slug: "x", Name: "\x1b[2J"}), database.ErrInvalid, "name"},
		{"user id taken", user(registry.User{ID: f.Bob.ID, Email: "x@example.com"}), database.ErrExists, "is taken"},
		{"email taken", user(registry.User{Email: f.Bob.Email}), database.ErrExists, "is taken"},
		{"email taken in upper case", user(registry.User{Email: strings.ToUpper(f.Bob.Email)}), database.ErrExists, "is taken"},
		{"no email", user(registry.User{}), database.ErrInvalid, "email"},
		{"an email with a space", user(registry.User{Email: "a b@example.com"}), database.ErrInvalid, "email"},
		{"an email with a line break", user(registry.User{Email: "a@example.com\nx"}), database.ErrInvalid, "email"},
		{"a user id with a line break", user(registry.User{ID: "a\r\nx: y", Email: "x@example.com"}), database.ErrInvalid, "user id"},
		{"a user id that is too long", user(registry.User{ID: strings.Repeat("a", 256), Email: "x@example.com"}),
			database.ErrInvalid, "255"},
		{"member of an unknown workspace", member("nowhere", f.Bob.ID, "member"), database.ErrNotFound, `no workspace "nowhere"`},
		{"unknown user as member", member("acme", "nobody", "member"), database.ErrNotFound, `no user "nobody"`},
		{"no role", member("acme", f.Bob.ID, ""), database.ErrInvalid, "role"},
		{"a role in upper case", member("acme", f.Bob.ID, "Admin"), database.ErrInvalid, "role"},
		{"removing an unknown user", f.RemoveMember(ctx, "acme", "nobody"), database.ErrNotFound, `no user "nobody"`},
		{"removing a user who is not a member", f.RemoveMember(ctx, "acme", f.Bob.ID), database.ErrNotFound, `not a member of the workspace "acme"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !errors.Is(c.got, c.kind) || !strings.Contains(c.got.Error(), c.want) {
				t.Fatalf("got %v, want %v with %q", c.got, c.kind, c.want)
			}
			if text := c.got.Error(); strings.Contains(text, "pq:") || strings.Contains(text, "\n") {
				t.Errorf("the error is not a sentence for the operator: %q", text)
			}
		})
	}
}

func TestOpenRegistryFailsClearly(t *testing.T) {
	empty := storetest.EmptyDatabase(t)
	outdated := storetest.NewFixture(t)
	outdated.Exec(t, `DELETE FROM keywicket.migrations
		WHERE version_id = (SELECT max(version_id) FROM keywicket.migrations)`)
	newer := storetest.NewFixture(t)
	newer.Exec(t, `INSERT INTO keywicket.migrations (version_id, is_applied) VALUES (99999, true)`)
	unreachable := storetest.Must(url.Parse(empty))
	unreachable.Host = "127.0.0.1:1"
	wrongPassword := storetest.Must(url.Parse(empty))
	wrongPassword.User = url.UserPassword("postgres", "geheim")
	for _, c := range []struct {
		name, url string
		kind      error
		want      string
	}{
		{"no schema", empty, database.ErrNotMigrated, "the schema keywicket does not exist in the database: run `keywicket migrate up`"},
		{"a schema that lacks a migration", outdated.URL, database.ErrNotMigrated, "lacks migrations (1): run `keywicket migrate up`"},
		{"nothing listens", unreachable.String(), database.ErrUnreachable, "connection refused"},
		{"wrong password", wrongPassword.String(), database.ErrUnreachable, "password authentication failed"},
		{"unknown database", storetest.Server.URL("unknown"), database.ErrUnreachable, `"unknown" does not exist`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := registry.Open(t.Context(), c.url)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("got %v, want %v with %q", err, c.kind, c.want)
			}
		})
	}
	r, err := registry.Open(t.Context(), newer.URL)
	if err != nil {
		t.Fatalf("Open refuses a schema with a migration of a later version: %v", err)
	}
	_ = r.Close()
}

func TestListsAreJSONArrays(t *testing.T) {
	url := storetest.CopyOf(t, storetest.Template)
	r := storetest.Must(registry.Open(t.Context(), url))
	defer func() { _ = r.Close() }()
	for name, list := range map[string]any{
		"workspaces": storetest.Must(r.Workspaces(t.Context())), "users": storetest.Must(r.Users(t.Context())),
		"members": storetest.Must(r.Members(t.Context(), "")), "tokens": storetest.Must(r.Tokens(t.Context(), registry.TokenFilter{})),
	} {
		if b := storetest.Must(json.Marshal(list)); string(b) != "[]" {
			t.Errorf("an empty list of %s is %s in JSON, not []", name, b)
		}
	}
}
