package browser

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/keywicket/keywicket/test/js"
)

// Page is a tab. If a step fails, the test fails immediately. So only the test's own goroutine may use a Page. Every selector
// is a CSS selector. A step waits until an element that matches the selector is present and visible.
type Page struct {
	t   testing.TB
	ctx context.Context // identifies the tab for chromedp
}

// Page opens a tab that is 1280 pixels wide and shares no cookie with another tab. It closes the tab at the end of the test.
func (b *Browser) Page(t testing.TB) *Page {
	t.Helper()
	p := open(t, b.ctx, chromedp.WithNewBrowserContext()).Size(1280, 800)
	// A page may write to the clipboard after a click. Without this setting, headless Chromium refuses it.
	call(p, browser.SetPermission, browser.SetPermissionParams{
		Permission:       &browser.PermissionDescriptor{Name: "clipboard-write"},
		Setting:          browser.PermissionSettingGranted,
		BrowserContextID: call(p, target.GetTargetInfo, target.GetTargetInfoParams{}).TargetInfo.BrowserContextID,
	})
	return p
}

// Tab opens another tab with the same cookies.
func (p *Page) Tab() *Page {
	p.t.Helper()
	return open(p.t, p.ctx).Size(1280, 800)
}

func open(t testing.TB, parent context.Context, options ...chromedp.ContextOption) *Page { //nolint:revive // the test comes first
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	// The tab is closed when the context of its first step is done. Therefore, the context of the first step has no deadline.
	timer := time.AfterFunc(stepTimeout, cancel)
	defer timer.Stop()
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	return &Page{t: t, ctx: ctx}
}

// do runs a step of the page.
func do[T any](p *Page, what string, step chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, stepTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, step)
	if err != nil {
		p.fail(what, err)
	}
	return value
}

// call runs a DevTools command for which chromedp has no function.
func call[P, R any](p *Page, command cdp.Command[P, R], params P) R {
	p.t.Helper()
	return do(p, command.Method, func(ctx context.Context, t *chromedp.Target) (R, error) {
		return cdp.Call(ctx, t, command, params)
	})
}

func (p *Page) fail(what string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Second)
	defer cancel()
	url, _ := chromedp.Run(ctx, chromedp.Location())
	p.t.Fatalf("%s (at %s): %v", what, url, err)
}

// Size sets the size of the window, in CSS pixels.
func (p *Page) Size(width, height int) *Page {
	p.t.Helper()
	do(p, "set the size", chromedp.EmulateViewport(int64(width), int64(height)))
	return p
}

// Scheme sets the preferred colour scheme: light or dark.
func (p *Page) Scheme(scheme string) *Page {
	p.t.Helper()
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	return p
}

// NoScript disables the scripts of the pages that the tab opens from now on. Eval and Await still work.
func (p *Page) NoScript() *Page {
	p.t.Helper()
	call(p, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	return p
}

// SetCookie sets a cookie for the URL's site.
func (p *Page) SetCookie(name, value, url string) {
	p.t.Helper()
	call(p, network.SetCookie, network.SetCookieParams{Name: name, Value: value, URL: url})
}

// Visit opens the URL, follows redirects, waits until the page and its frames are loaded, and returns the status of the
// last response.
func (p *Page) Visit(url string) int {
	p.t.Helper()
	return status(do(p, "visit "+url, chromedp.NavigateResponse(url)))
}

// ClickAndLoad clicks on the element, waits until the next page is loaded, and returns the status of the last response.
func (p *Page) ClickAndLoad(selector string) int {
	p.t.Helper()
	return p.load("follow "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Enter presses Enter, waits until the next page is loaded, and returns the status of the last response.
func (p *Page) Enter() int {
	p.t.Helper()
	return p.load("press Enter", chromedp.KeyEvent("\r"))
}

// Reload loads the page again, and returns the status of the last response. If the page is the response to a form, Reload sends the form
// again.
func (p *Page) Reload() int {
	p.t.Helper()
	return p.load("reload", chromedp.Reload())
}

// Back opens the previous page of the tab's history, and returns the status of its response.
func (p *Page) Back() int {
	p.t.Helper()
	return p.load("go back", chromedp.NavigateBack())
}

// DoubleClick clicks twice on the element, and does not wait for the effect.
func (p *Page) DoubleClick(selector string) {
	p.t.Helper()
	do(p, "double-click on "+selector, chromedp.DoubleClick(chromedp.CSS(selector)))
}

func (p *Page) load(what string, step chromedp.Action[chromedp.Void]) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, stepTimeout)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		p.fail(what, err)
	}
	return status(response)
}

func status(response *network.Response) int {
	if response == nil { // a page without a response: about:blank
		return 0
	}
	return int(response.Status)
}

// URL returns the page's address.
func (p *Page) URL() string {
	p.t.Helper()
	return do(p, "read the URL", chromedp.Location())
}

// Text returns the visible text of the element.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	return do(p, "read "+selector, chromedp.Text(chromedp.CSS(selector)))
}

// Click clicks on the element, and does not wait for the effect.
func (p *Page) Click(selector string) {
	p.t.Helper()
	do(p, "click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Check clicks on a checkbox unless it is checked already.
func (p *Page) Check(selector string) {
	p.t.Helper()
	ticked := do(p, "read "+selector, chromedp.JavascriptAttribute[bool](chromedp.CSS(selector), "checked"))
	if !ticked {
		p.Click(selector)
	}
}

// Type types text into the element.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	do(p, "type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Press presses keys, one for each character: "\t" is Tab, " " checks a checkbox.
func (p *Page) Press(keys string) {
	p.t.Helper()
	do(p, "press keys", chromedp.KeyEvent(keys))
}

// Clipboard returns the text that the clipboard of the browser contains, as another page receives it.
func (p *Page) Clipboard() string {
	p.t.Helper()
	other := p.Tab()
	other.Visit("data:text/html,<textarea id=text></textarea>")
	other.Click("#text")
	for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeRawKeyDown, input.DispatchKeyEventTypeKeyUp} {
		call(other, input.DispatchKeyEvent, input.DispatchKeyEventParams{
			Type: kind, Modifiers: int64(chromedp.ModifierCtrl), Key: "v", Code: "KeyV", WindowsVirtualKeyCode: 'V', Commands: []string{"paste"},
		})
	}
	var text string
	other.Eval(`document.querySelector("#text").value`, &text)
	return text
}

// Focused returns the element with the keyboard focus, as #id. If the element has no id, Focused returns its tag name.
func (p *Page) Focused() string {
	p.t.Helper()
	var name string
	p.Eval(`(e => e.id ? "#" + e.id : e.localName)(document.activeElement)`, &name)
	return name
}

// Eval evaluates a JavaScript expression in the page and awaits a promise. It decodes the result's JSON into out. The page's
// Content-Security-Policy does not apply to the expression.
func (p *Page) Eval(expression string, out any) {
	p.t.Helper()
	value := do(p, "evaluate", chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal(value, out); err != nil {
		p.fail("evaluate "+expression, err)
	}
}

// Await waits until a JavaScript expression is true, in this page or in a later page of the tab.
func (p *Page) Await(condition string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, stepTimeout)
	defer cancel()
	for {
		met, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+condition+")"))
		if met {
			return
		}
		select {
		case <-ctx.Done():
			p.fail("wait for "+condition, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond): // Run may return an error because the page was just replaced
		}
	}
}

// Frame is a page within a page.
type Frame struct {
	URL     string
	Refused bool // the page at URL does not permit framing by this page, or does not exist
}

// Frames returns the frames of the page, without nested frames.
func (p *Page) Frames() []Frame {
	p.t.Helper()
	var frames []Frame
	for _, child := range call(p, page.GetFrameTree, cdp.Empty{}).FrameTree.ChildFrames {
		frame := Frame{URL: child.Frame.URL}
		if child.Frame.UnreachableURL != "" { // the URL is then chrome-error://chromewebdata/
			frame = Frame{URL: child.Frame.UnreachableURL, Refused: true}
		}
		frames = append(frames, frame)
	}
	return frames
}

// Overflows reports whether the page is wider than its window, which requires horizontal scrolling.
func (p *Page) Overflows() bool {
	p.t.Helper()
	var over bool
	p.Eval(`document.documentElement.scrollWidth > document.documentElement.clientWidth`, &over)
	return over
}

// Screenshot returns the whole page as a PNG.
func (p *Page) Screenshot() []byte {
	p.t.Helper()
	return do(p, "take a screenshot", chromedp.FullScreenshot(100))
}

// Axe runs axe-core's accessibility checks on the page with its current size and colours. It returns a line for each
// element: the rule, the element, the problem.
func (p *Page) Axe() []string {
	p.t.Helper()
	path, err := js.File("axe-core/axe.min.js")
	if err != nil {
		p.t.Fatal(err)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	do(p, "load axe-core", chromedp.Evaluate[chromedp.Void](string(source)))
	var lines []string
	p.Eval(`axe.run(document, {resultTypes: ["violations"]}).then(results => results.violations.flatMap(rule =>
		rule.nodes.map(node => rule.id + ": " + node.target.join(" ") + ": " + node.failureSummary.replace(/\s+/g, " "))))`, &lines)
	return lines
}
