package settings

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// showsWorkspace requires that the page of the workspace shows the id that the management API returns.
func (w *walk) showsWorkspace() {
	w.t.Helper()
	w.navigate("General")
	w.good("general")
	var shown string
	if w.page.Eval(`document.querySelector("#workspace-id").value`, &shown); shown != w.workspace.ID || len(shown) != 24 {
		w.t.Errorf("the page shows the workspace ID %q, not %s", shown, w.workspace.ID)
	}
	if !w.look.noScript {
		w.hand.press(w.page, `[data-copy="workspace-id"]`)
		w.page.Await(`document.querySelector("#copied").textContent === "Copied"`)
		if got := w.page.Clipboard(); got != shown {
			w.t.Errorf("the clipboard contains %s", got)
		}
	}
	users := harness.Keywicket[[]registry.User](w.t, w.Stack, "user", "list")
	ada := users[slices.IndexFunc(users, func(u registry.User) bool { return u.Email == example.User })]
	session, err := w.SignIn.Token(ada.ID, rand.Text(), time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	list := harness.Fetch(w.t, http.DefaultClient, http.MethodGet, w.VelaFlows+"/api/keywicket/v1/workspaces", "", "Authorization", "Bearer "+session)
	if list.Status != http.StatusOK || !strings.Contains(list.Body, shown) {
		w.t.Errorf("the list of workspaces: %d %s", list.Status, list.Body)
	}
}

// describesScopes requires that the form describes each scope as the API's document does.
func (w *walk) describesScopes(g tokenPage) {
	w.t.Helper()
	var texts map[string]string
	w.page.Eval(`Object.fromEntries([...document.querySelectorAll("[name=scope]")].map(e => [e.value, e.closest("label").textContent]))`, &texts)
	if len(texts) != g.scopes {
		w.t.Errorf("the form has %d scopes, not %d", len(texts), g.scopes)
	}
	for scope, text := range texts {
		if description := product.DocumentedAPIs[g.api].Descriptions[scope]; description == "" || !strings.Contains(text, description) {
			w.t.Errorf("the form describes %s as %q, not as %q", scope, text, description)
		}
	}
}

// hides requires that the page does not contain the text.
func (w *walk) hides(text string) {
	w.t.Helper()
	var found bool
	if w.page.Eval(fmt.Sprintf(`document.documentElement.outerHTML.includes(%q)`, text), &found); found {
		w.t.Errorf("%s contains a secret", w.page.URL())
	}
}

// seesUse waits until the list shows that the token was used just now. It reports whether the chart shows allowed and denied requests.
func (w *walk) seesUse(prefix string) (both bool) {
	w.t.Helper()
	var row string
	harness.Await(w.t, "the list shows the use of the token", func() bool {
		w.page.Visit(w.page.URL())
		w.page.Eval(fmt.Sprintf(`[...document.querySelectorAll("tbody tr")].find(r => r.textContent.includes(%q)).innerText`, prefix), &row)
		return strings.Contains(row, "just now")
	})
	if !strings.Contains(row, "1 request") {
		w.t.Errorf("the list shows no use: %s", row)
	}
	var bars int
	w.page.Eval(fmt.Sprintf(`[...document.querySelectorAll("tbody tr")].find(r => r.textContent.includes(%q)).querySelectorAll(".chart rect").length`, prefix), &bars)
	return strings.Contains(row, "1 denied") && bars == 2
}
