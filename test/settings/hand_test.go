package settings

import (
	"fmt"
	"testing"

	"github.com/keywicket/keywicket/test/browser"
)

// hand is how a user operates a page.
type hand interface {
	// follow activates a link or a button, and waits for the next page. It returns the status.
	follow(p *browser.Page, selector string) int
	// press activates a button that opens no page.
	press(p *browser.Page, selector string)
	// check checks a checkbox or a radio button.
	check(p *browser.Page, selector string)
	write(p *browser.Page, selector, text string)
}

// find marks the link or the button with this visible text, and returns a selector for it. If row is not empty, it is in the first row
// of a table that contains this text. If group is not empty, it is below this heading of the navigation.
func find(t *testing.T, p *browser.Page, name, row, group string) string {
	t.Helper()
	var found bool
	p.Eval(fmt.Sprintf(`((name, row, group) => {
		const named = e => { const c = e.cloneNode(true); c.querySelectorAll(".hidden").forEach(h => h.remove()); return c.textContent.replace(/\s+/g, " ").trim() };
		let within = document;
		if (row) within = [...document.querySelectorAll("tbody tr")].find(r => r.textContent.includes(row));
		if (group) within = [...document.querySelectorAll("nav h2")].find(h => named(h) === group)?.nextElementSibling;
		document.querySelectorAll("[data-found]").forEach(e => e.removeAttribute("data-found"));
		const e = within && [...within.querySelectorAll("a, button, summary")].find(e => named(e) === name && e.checkVisibility());
		e?.setAttribute("data-found", "");
		return Boolean(e);
	})(%q, %q, %q)`, name, row, group), &found)
	if !found {
		t.Fatalf("there is no %q %s %s at %s: %s", name, group, row, p.URL(), p.Text("body"))
	}
	return "[data-found]"
}

type mouse struct{}

func (mouse) follow(p *browser.Page, selector string) int  { return p.ClickAndLoad(selector) }
func (mouse) press(p *browser.Page, selector string)       { p.Click(selector) }
func (mouse) check(p *browser.Page, selector string)       { p.Check(selector) }
func (mouse) write(p *browser.Page, selector, text string) { p.Type(selector, text) }

// keyboard uses only keys, as a user without a mouse does.
type keyboard struct{ t *testing.T }

// reach presses Tab until the element has the focus. It requires that the focus is visible on the way.
func (k keyboard) reach(p *browser.Page, selector string) {
	k.t.Helper()
	const most = 150
	for range most {
		var state string
		p.Eval(fmt.Sprintf(`(e => {
			const s = getComputedStyle(e), r = e.getBoundingClientRect();
			if (e !== document.body && (s.outlineStyle === "none" || s.outlineStyle !== "auto" && parseFloat(s.outlineWidth) < 2 || r.width < 2)) return "invisible " + e.outerHTML.slice(0, 200);
			return e.matches(%q) ? "reached" : "other"
		})(document.activeElement)`, selector), &state)
		switch state {
		case "reached":
			return
		case "other":
		default:
			k.t.Fatalf("the focus is %s", state)
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

func (k keyboard) press(p *browser.Page, selector string) {
	k.t.Helper()
	k.reach(p, selector)
	p.Press(" ")
}

func (k keyboard) check(p *browser.Page, selector string) {
	k.t.Helper()
	var radio string
	var checked bool
	p.Eval(fmt.Sprintf(`(e => e.type === "radio" ? e.name : "")(document.querySelector(%q))`, selector), &radio)
	if radio == "" {
		k.reach(p, selector)
		if p.Eval(fmt.Sprintf(`document.querySelector(%q).checked`, selector), &checked); !checked {
			p.Press(" ")
		}
		return
	}
	// Tab reaches the chosen radio button of the group, and the arrow keys choose another one.
	k.reach(p, `[name="`+radio+`"]`)
	const most = 10
	for range most {
		if p.Eval(fmt.Sprintf(`document.querySelector(%q).checked`, selector), &checked); checked {
			return
		}
		p.Press(arrowDown)
	}
	k.t.Fatalf("the arrow keys do not choose %s", selector)
}

func (k keyboard) write(p *browser.Page, selector, text string) {
	k.t.Helper()
	k.reach(p, selector)
	p.Press(text)
}

// arrowDown is the key in the form of browser.Page.Press.
const arrowDown = "\u0301"
