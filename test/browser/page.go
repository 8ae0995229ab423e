package browser

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/keywicket/keywicket/test/js"
)

// Page is a tab. What fails in it fails its test at once, so only the test's own goroutine may use it. A selector is CSS;
// a step waits for an element that it selects to be there and visible.
type Page struct {
	t   testing.TB
	ctx context.Context // chromedp's name of the tab
}

// Page opens a tab that shares no cookie with another, 1280 pixels wide, and closes it with the test.
func (b *Browser) Page(t testing.TB) *Page {
	t.Helper()
	return open(t, b.ctx, chromedp.WithNewBrowserContext()).Size(1280, 800)
}

// Tab opens another tab of the same cookies.
func (p *Page) Tab() *Page {
	p.t.Helper()
	return open(p.t, p.ctx).Size(1280, 800)
}

func open(t testing.TB, parent context.Context, options ...chromedp.ContextOption) *Page { //nolint:revive // the test comes first
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	// The tab lives as long as the context of its first step, which therefore has no deadline of its own.
	late := time.AfterFunc(patience, cancel)
	defer late.Stop()
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	return &Page{t: t, ctx: ctx}
}

// do runs a step of the page.
func do[T any](p *Page, what string, step chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, step)
	if err != nil {
		p.fail(what, err)
	}
	return value
}

// call runs a step that chromedp has no function for.
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

// Size makes the window so wide and high, in CSS pixels.
func (p *Page) Size(width, height int) *Page {
	p.t.Helper()
	do(p, "set the size", chromedp.EmulateViewport(int64(width), int64(height)))
	return p
}

// Scheme makes the user prefer a colour scheme: light or dark.
func (p *Page) Scheme(scheme string) *Page {
	p.t.Helper()
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	return p
}

// SetCookie gives the browser a cookie for the URL's site.
func (p *Page) SetCookie(name, value, url string) {
	p.t.Helper()
	call(p, network.SetCookie, network.SetCookieParams{Name: name, Value: value, URL: url})
}

// Visit goes to the URL, waits until the page and its frames are loaded, and returns the last answer's status.
func (p *Page) Visit(url string) int {
	p.t.Helper()
	return status(do(p, "visit "+url, chromedp.NavigateResponse(url)))
}

// Follow clicks on what leads to another page, waits until that is loaded, and returns the last answer's status.
func (p *Page) Follow(selector string) int {
	p.t.Helper()
	return p.load("follow "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Enter presses Enter where that leads to another page, waits until that is loaded, and returns the last answer's status.
func (p *Page) Enter() int {
	p.t.Helper()
	return p.load("press Enter", chromedp.KeyEvent("\r"))
}

func (p *Page) load(what string, step chromedp.Action[chromedp.Void]) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, step)
	if err != nil {
		p.fail(what, err)
	}
	return status(response)
}

func status(response *network.Response) int {
	if response == nil { // of a page that came from nowhere: about:blank
		return 0
	}
	return int(response.Status)
}

// URL is where the page is.
func (p *Page) URL() string {
	p.t.Helper()
	return do(p, "ask for the URL", chromedp.Location())
}

// Text is what the element shows.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	return do(p, "read "+selector, chromedp.Text(chromedp.CSS(selector)))
}

// Click clicks on the element, and waits for nothing that follows.
func (p *Page) Click(selector string) {
	p.t.Helper()
	do(p, "click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Check clicks on a box unless it is ticked already.
func (p *Page) Check(selector string) {
	p.t.Helper()
	ticked := do(p, "look at "+selector, chromedp.JavascriptAttribute[bool](chromedp.CSS(selector), "checked"))
	if !ticked {
		p.Click(selector)
	}
}

// Type writes into the element.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	do(p, "type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Press presses keys, one for each character: "\t" is Tab, " " ticks a box.
func (p *Page) Press(keys string) {
	p.t.Helper()
	do(p, "press keys", chromedp.KeyEvent(keys))
}

// Focused says which element the keyboard is at: its id as #id, else the name of its tag.
func (p *Page) Focused() string {
	p.t.Helper()
	var name string
	p.Eval(`(e => e.id ? "#" + e.id : e.localName)(document.activeElement)`, &name)
	return name
}

// Eval has the page compute a JavaScript expression, waits for it if it is a promise, and reads its JSON into out. The page's
// Content-Security-Policy does not hold here.
func (p *Page) Eval(expression string, out any) {
	p.t.Helper()
	value := do(p, "evaluate", chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal(value, out); err != nil {
		p.fail("evaluate "+expression, err)
	}
}

// Await waits until a JavaScript expression is true, of this page or of one that follows it.
func (p *Page) Await(condition string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		met, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+condition+")"))
		if met {
			return
		}
		select {
		case <-ctx.Done():
			p.fail("wait for "+condition, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond): // an error may be of a page that just went
		}
	}
}

// Frame is a page within a page.
type Frame struct {
	URL     string
	Refused bool // the page at URL does not let itself be framed there, or is not there
}

// Frames are those of the page, without theirs.
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

// Overflows says whether the page is wider than its window, so that one has to scroll sideways.
func (p *Page) Overflows() bool {
	p.t.Helper()
	var over bool
	p.Eval(`document.documentElement.scrollWidth > document.documentElement.clientWidth`, &over)
	return over
}

// Screenshot is the whole page, as a PNG.
func (p *Page) Screenshot() []byte {
	p.t.Helper()
	return do(p, "take a picture", chromedp.FullScreenshot(100))
}

// Axe has axe-core look for what keeps people out, in the page as it is: its size, its colours. It returns a line for each
// element: the rule, the element, what is wrong.
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
