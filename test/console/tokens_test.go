package console

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// hand is how a user operates a page.
type hand interface {
	// follow activates a link or a button, and waits for the next page. It returns the status.
	follow(p *browser.Page, selector string) int
	// check checks a checkbox or a radio button.
	check(p *browser.Page, selector string)
	write(p *browser.Page, selector, text string)
}

type mouse struct{}

func (mouse) follow(p *browser.Page, selector string) int  { return p.ClickAndLoad(selector) }
func (mouse) check(p *browser.Page, selector string)       { p.Check(selector) }
func (mouse) write(p *browser.Page, selector, text string) { p.Type(selector, text) }

// keyboard uses only keys, as a user without a mouse does.
type keyboard struct{ t *testing.T }

// reach presses Tab until the element has the focus, and requires that the focus is visible.
func (k keyboard) reach(p *browser.Page, selector string) {
	k.t.Helper()
	const most = 120
	for range most {
		var state string
		p.Eval(fmt.Sprintf(`(e => !e.matches(%q) ? "other" : getComputedStyle(e).outlineStyle === "none" ? "invisible" : "visible")(document.activeElement)`, selector), &state)
		switch state {
		case "visible":
			return
		case "invisible":
			k.t.Fatalf("the focus on %s is invisible", selector)
		}
		p.Press("\t")
	}
	k.t.Fatalf("Tab does not reach %s at %s", selector, p.URL())
}

func (k keyboard) follow(p *browser.Page, selector string) int {
	k.t.Helper()
	k.reach(p, selector)
	return p.Enter()
}

func (k keyboard) check(p *browser.Page, selector string) {
	k.t.Helper()
	var isRadio bool
	p.Eval(fmt.Sprintf(`document.querySelector(%q).type === "radio"`, selector), &isRadio)
	if !isRadio {
		k.reach(p, selector)
		p.Press(" ")
		return
	}
	// Tab reaches the chosen radio button of the group, and the arrow keys choose another one.
	var name string
	p.Eval(fmt.Sprintf(`document.querySelector(%q).name`, selector), &name)
	k.reach(p, `[name="`+name+`"]`)
	const most = 10
	for range most {
		var chosen bool
		p.Eval(fmt.Sprintf(`document.querySelector(%q).checked`, selector), &chosen)
		if chosen {
			return
		}
		p.Press("\u0301") // arrow down
	}
	k.t.Fatalf("the arrow keys do not choose %s", selector)
}

func (k keyboard) write(p *browser.Page, selector, text string) {
	k.t.Helper()
	k.reach(p, selector)
	p.Press(text)
}

// The life of a token in a browser, through Envoy: a user creates the token, copies it, uses it at once, sees its use, rotates it and
// revokes it. By mouse and by keyboard alone.
func TestLifeOfATokenInChromium(t *testing.T) {
	t.Parallel()
	d := start(t)
	var workspace string
	for _, w := range harness.Keywicket[[]registry.Workspace](t, d.Stack, "workspace", "list") {
		if w.Slug == example.YourSlug {
			workspace = w.ID
		}
	}
	for _, c := range []struct {
		name, page, request, scope, prefix, workspace string
	}{
		{"API Tokens", d.VelaFlows + "/settings/developer/api-tokens", d.VelaFlows + "/api/v1/inbox/conversations", "inbox:read", "sk_live_", workspace},
		{"API Keys", d.Velocity + "/settings/api-keys", d.Velocity + "/api/issues", "issues:read", "vel_", ""},
		{"Personal API Keys", d.Velocity + "/settings/account/personal-api-keys", d.Velocity + "/api/user", "user:read", "velu_", ""},
	} {
		for device, h := range map[string]hand{"mouse": mouse{}, "keyboard": keyboard{t}} {
			t.Run(c.name+", "+device, func(t *testing.T) {
				if k, ok := h.(keyboard); ok {
					k.t = t
					h = k
				}
				p := d.open(t, c.page)
				if !strings.Contains(p.Text("main h1"), c.name) {
					t.Fatalf("the page shows %s", p.Text("main"))
				}
				uses := func(secret string, want int) {
					t.Helper()
					harness.Await(t, fmt.Sprint("the status ", want), func() bool { return status(t, c.request, secret, c.workspace) == want })
				}
				secretOf := func() string {
					t.Helper()
					if !strings.Contains(p.Text("main"), "it will only be shown once") {
						t.Fatalf("the page shows %s", p.Text("main"))
					}
					var secret string
					p.Eval(`document.querySelector("#secret").value`, &secret)
					return secret
				}
				row := func(n int, button string) string {
					return fmt.Sprintf("tbody tr:nth-child(%d) .actions a:%s", n, button)
				}

				h.follow(p, ".heading .button")
				h.write(p, "#name", "Made by "+device)
				h.check(p, `input[value="`+c.scope+`"]`)
				h.check(p, `input[name="expiry"][value="30"]`)
				if got := h.follow(p, ".answers .primary"); got != http.StatusOK {
					t.Fatalf("%d: %s", got, p.Text("main"))
				}
				first := secretOf()
				if !strings.HasPrefix(first, c.prefix) {
					t.Fatalf("the secret begins with %.8s", first)
				}
				if got := status(t, c.request, first, c.workspace); got != http.StatusOK {
					t.Errorf("the first request got %d", got)
				}
				h.follow(p, ".crumbs a")
				harness.Await(t, "the list shows the use", func() bool {
					p.Visit(c.page + "?workspace=" + example.YourSlug)
					text := p.Text("tbody tr:first-child")
					return strings.Contains(text, "Made by "+device) && strings.Contains(text, "just now") && strings.Contains(text, "1 request")
				})
				h.follow(p, row(1, "first-child"))
				h.check(p, `input[value="1h"]`)
				h.follow(p, ".answers .primary")
				second := secretOf()
				uses(first, http.StatusOK)
				uses(second, http.StatusOK)
				h.follow(p, ".crumbs a")
				h.follow(p, row(1, "first-child"))
				h.check(p, `input[value="0s"]`)
				h.follow(p, ".answers .primary")
				third := secretOf()
				uses(second, http.StatusUnauthorized)
				uses(third, http.StatusOK)
				h.follow(p, ".crumbs a")
				h.follow(p, row(1, "last-child"))
				if text := p.Text("main"); !strings.Contains(text, "Revoke Made by "+device+"?") || !strings.Contains(text, "cannot be undone") {
					t.Errorf("the page asks %s", text)
				}
				h.follow(p, ".answers .solid")
				if text := p.Text(`[role="status"]`); !strings.Contains(text, "is revoked") {
					t.Errorf("the page shows %s", text)
				}
				uses(third, http.StatusUnauthorized)
			})
		}
	}
}
