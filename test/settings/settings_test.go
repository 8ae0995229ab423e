package settings

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

func (d *deployment) tokenPages() []tokenPage {
	return []tokenPage{
		{
			api: "velaflows", nav: "Developer > API Tokens", noun: "Token", prefix: "sk_live_", visible: 16, length: 48, scope: "inbox:read",
			allowed: "GET /api/v1/inbox/conversations", denied: "DELETE /api/v1/crm/leads/7", workspace: d.workspace.ID, activity: "Activity",
			scopes: 20, presets: map[string][]string{
				"Read-only dashboard":              {"inbox:read", "crm:read", "contacts:read", "analytics:read"},
				"Chatbot that replies to messages": {"inbox:read", "inbox:write", "channels:read", "channels:write", "ai:read"},
				"CRM sync":                         {"crm:read", "crm:create", "crm:update", "contacts:read", "contacts:write"},
			},
		},
		{
			api: "velocity", nav: "API Keys", noun: "Key", prefix: "vel_", visible: 12, length: 42, scope: "issues:read",
			allowed: "GET /api/issues", denied: "POST /api/issues", activity: "Activity",
			scopes: 8, presets: map[string][]string{
				"Read-only":  {"issues:read", "projects:read", "documents:read", "workspace:read"},
				"Read-write": {"issues:read", "projects:read", "documents:read", "workspace:read", "issues:write", "projects:write", "documents:write"},
			},
		},
		{
			api: "velocity", nav: "Account > Personal API Keys", noun: "Key", prefix: "velu_", visible: 13, length: 43, scope: "user:read",
			allowed: "GET /api/user", denied: "PATCH /api/user", activity: "Account > Activity", scopes: 15,
		},
	}
}

// walkAll uses all pages.
func walkAll(t *testing.T, d *deployment, l look, byKeyboard bool) {
	t.Helper()
	steps := done{}
	for _, g := range d.tokenPages() {
		parts := strings.Split(g.nav, " > ")
		title := parts[len(parts)-1]
		t.Run(title, func(t *testing.T) {
			w := d.walk(t, l, byKeyboard, title)
			w.tokens(g)
			maps.Copy(steps, w.done)
		})
	}
	t.Run("OAuth Apps", func(t *testing.T) {
		w := d.walk(t, l, byKeyboard, "OAuth Apps")
		w.apps()
		maps.Copy(steps, w.done)
	})
	steps.requireDocumented(t)
}

func (d *deployment) walk(t *testing.T, l look, byKeyboard bool, title string) *walk {
	t.Helper()
	w := &walk{deployment: d, t: t, page: d.open(t, l), hand: mouse{}, look: l, name: title, done: done{}}
	if byKeyboard {
		w.hand = keyboard{t}
	}
	return w
}

// A user uses all pages by mouse, on a desktop.
func TestWalkInChromium(t *testing.T) {
	t.Parallel()
	walkAll(t, start(t), look{width: 1280, scheme: "light"}, false)
}

// A user uses all pages by mouse and by keyboard, on a small telephone and on a desktop, in light and dark, and without scripts.
func TestWalkInEveryLook(t *testing.T) {
	harness.SkipIfShort(t)
	t.Parallel()
	d := start(t)
	all := slices.Concat(looks, []look{{width: 360, scheme: "light", noScript: true}, {width: 1280, scheme: "light", noScript: true}})
	for _, l := range all {
		for _, byKeyboard := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keyboard %t", l, byKeyboard), func(t *testing.T) { walkAll(t, d, l, byKeyboard) })
		}
	}
}
