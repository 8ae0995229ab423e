package browser_test

import (
	"bytes"
	"image/png"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywicket/keywicket/test/browser"
)

// The pages of a site. As on the consent page, the Content-Security-Policy allows only inline style, and no framing. The methods
// of browser.Page, such as Visit, must work under this policy.
var pages = map[string]string{
	"/good": `<style>body { background: Canvas; color: CanvasText; color-scheme: light dark }</style>
		<h1>Good</h1>
		<form method="post" action="/form">
		<label><input type="checkbox" id="box" name="box" value="ticked"> A box</label>
		<button id="send">Send</button>
		</form>`,
	"/bad": `<style>#faint { color: #bbb; background: #fff } #wide { width: 500px }</style>
		<h1>Bad</h1><img id="image" src="/none"><p id="faint">Faint</p><div id="wide">Wide</div>`,
	"/framed": `<h1>Framed</h1>`,
}

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	page := func(w http.ResponseWriter, title, body string) {
		_, _ = w.Write([]byte(`<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">` +
			`<meta name="viewport" content="width=device-width, initial-scale=1"><title>` + title + `</title></head>` +
			`<body><main>` + body + `</main></body></html>`))
	}
	for path, body := range pages {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self';"+
				" frame-ancestors 'none'; require-trusted-types-for 'script'")
			page(w, path, body)
		})
	}
	mux.HandleFunc("GET /anywhere", func(w http.ResponseWriter, _ *http.Request) { page(w, "anywhere", "<h1>Anywhere</h1>") })
	mux.HandleFunc("GET /old", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Frame-Options", "DENY")
		page(w, "old", "<h1>Old</h1>")
	})
	mux.HandleFunc("GET /framing", func(w http.ResponseWriter, r *http.Request) {
		page(w, "framing", `<iframe src="`+r.FormValue("url")+`"></iframe>`)
	})
	mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/sent?box="+r.FormValue("box"), http.StatusSeeOther)
	})
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		page(w, "sent", `<h1 id="box">`+r.FormValue("box")+`</h1>`)
	})
	mux.HandleFunc("GET /cookies", func(w http.ResponseWriter, r *http.Request) {
		page(w, "cookies", `<p id="cookies">[`+r.Header.Get("Cookie")+`]</p>`)
	})
	mux.HandleFunc("GET /script", func(w http.ResponseWriter, _ *http.Request) {
		page(w, "script", `<h1 id="heading">Plain</h1><button id="copy" onclick="navigator.clipboard.writeText('a secret').then(() => { document.title = 'copied' })">Copy</button>`+
			`<script>document.querySelector("#heading").textContent = "Changed"</script>`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func start(t *testing.T) *browser.Browser {
	t.Helper()
	b, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestBrowser(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary) // contains the profile

	// The browser must not reach these servers, although they are reachable: another address of this machine, and a proxy.
	var reached atomic.Int64
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	otherAddress, proxy := httptest.NewUnstartedServer(count), httptest.NewServer(count)
	t.Cleanup(proxy.Close)
	t.Setenv("http_proxy", proxy.URL)
	_ = otherAddress.Listener.Close()
	var err error
	if otherAddress.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Fatal(err)
	}
	otherAddress.Start()
	t.Cleanup(otherAddress.Close)

	site, b := serve(t), start(t)

	t.Run("axe-core reports exactly the errors of a page", func(t *testing.T) {
		p := b.Page(t)
		p.Visit(site.URL + "/bad")
		got := p.Axe()
		var rules []string
		for _, line := range got {
			rules = append(rules, strings.Join(strings.SplitN(line, ": ", 3)[:2], " "))
		}
		slices.Sort(rules)
		if want := []string{"color-contrast #faint", "image-alt #image"}; !slices.Equal(rules, want) {
			t.Errorf("got %q, want %v", got, want)
		}
		for _, scheme := range []string{"light", "dark"} {
			p.Scheme(scheme)
			p.Visit(site.URL + "/good")
			if got := p.Axe(); len(got) != 0 {
				t.Errorf("in %s: %q", scheme, got)
			}
		}
	})

	t.Run("a page that is too wide is detected", func(t *testing.T) {
		p := b.Page(t)
		p.Visit(site.URL + "/bad")
		if p.Overflows() {
			t.Error("the bad page overflows on a desktop")
		}
		if p.Size(360, 640); !p.Overflows() {
			t.Error("the bad page fits on a phone")
		}
		if p.Visit(site.URL + "/good"); p.Overflows() {
			t.Error("the good page overflows on a phone")
		}
	})

	t.Run("a screenshot has the width and the colours of the page", func(t *testing.T) {
		p := b.Page(t).Size(360, 640)
		brightness := map[string]uint32{}
		for _, scheme := range []string{"light", "dark"} {
			p.Scheme(scheme)
			p.Visit(site.URL + "/good")
			picture, err := png.Decode(bytes.NewReader(p.Screenshot()))
			if err != nil {
				t.Fatal(err)
			}
			if got := picture.Bounds().Dx(); got != 360 {
				t.Errorf("%d pixels wide", got)
			}
			brightness[scheme], _, _, _ = picture.At(0, 0).RGBA()
		}
		if brightness["light"] != 0xffff || brightness["dark"] > 0x3000 {
			t.Errorf("brightness %#x", brightness)
		}
	})

	t.Run("a form is sent by mouse and by keyboard", func(t *testing.T) {
		p := b.Page(t)
		p.Visit(site.URL + "/good")
		p.Check("#box")
		p.Check("#box")
		if got := p.ClickAndLoad("#send"); got != http.StatusTeapot {
			t.Errorf("status %d", got)
		}
		if got, want := p.URL(), site.URL+"/sent?box=ticked"; got != want {
			t.Errorf("the URL is %s, want %s", got, want)
		}
		p.Visit(site.URL + "/good")
		p.Press("\t \t")
		if got := p.Focused(); got != "#send" {
			t.Errorf("the keyboard focus is at %s", got)
		}
		if got := p.Enter(); got != http.StatusTeapot {
			t.Errorf("status %d", got)
		}
		if got := p.Text("#box"); got != "ticked" {
			t.Errorf("the page shows %q", got)
		}
		p.Visit(site.URL + "/good")
		p.Click("#send")
		p.Await(`location.pathname === "/sent"`)
	})

	t.Run("a refused frame is reported", func(t *testing.T) {
		p := b.Page(t)
		other := strings.Replace(site.URL, "127.0.0.1", "other.localhost", 1) // another site
		for url, refused := range map[string]bool{
			site.URL + "/framed": true, site.URL + "/old": true, site.URL + "/anywhere": false,
			other + "/framed": true, other + "/old": true, other + "/anywhere": false,
		} {
			p.Visit(site.URL + "/framing?url=" + url)
			if got, want := p.Frames(), []browser.Frame{{URL: url, Refused: refused}}; !slices.Equal(got, want) {
				t.Errorf("%s: got %+v, want %+v", url, got, want)
			}
		}
	})

	t.Run("pages have separate cookies, and tabs of one page share them", func(t *testing.T) {
		p := b.Page(t)
		p.SetCookie("session", "mine", site.URL)
		for page, want := range map[*browser.Page]string{p: "[session=mine]", p.Tab(): "[session=mine]", b.Page(t): "[]"} {
			page.Visit(site.URL + "/cookies")
			if got := page.Text("#cookies"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})

	t.Run("another page receives the text of the clipboard", func(t *testing.T) {
		p := b.Page(t)
		p.Visit(site.URL + "/script")
		p.Click("#copy")
		p.Await(`document.title === "copied"`)
		if got := p.Clipboard(); got != "a secret" {
			t.Errorf("got %q", got)
		}
	})

	t.Run("scripts can be disabled", func(t *testing.T) {
		for want, p := range map[string]*browser.Page{"Changed": b.Page(t), "Plain": b.Page(t).NoScript()} {
			p.Visit(site.URL + "/script")
			if got := p.Text("#heading"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})

	t.Run("the browser reaches only 127.0.0.1", func(t *testing.T) {
		p := b.Page(t)
		for _, url := range []string{otherAddress.URL + "/", "http://keywicket.invalid/"} {
			p.Visit(site.URL + "/framing?url=" + url)
			if got, want := p.Frames(), []browser.Frame{{URL: url, Refused: true}}; !slices.Equal(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		if got := reached.Load(); got != 0 {
			t.Errorf("%d requests reached another address or the proxy", got)
		}
	})

	t.Run("Close leaves no files and no processes", func(t *testing.T) {
		for range 2 {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		files, err := os.ReadDir(temporary)
		if err != nil || len(files) != 0 {
			t.Errorf("left %v, %v", files, err)
		}
		processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil || len(processes) == 0 {
			t.Fatalf("processes %v, %v", processes, err)
		}
		for _, process := range processes {
			if line, _ := os.ReadFile(process); strings.Contains(string(line), temporary) { // a process of the browser that still runs
				t.Errorf("left %s: %q", process, line)
			}
		}
	})
}

func TestErrorExplainsHowToInstallChromium(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PATH", "")
	for _, set := range []string{"", "/nonexistent/chromium"} {
		t.Setenv("CHROMIUM", set)
		if _, err := browser.Start(t.Context()); err == nil || !strings.Contains(err.Error(), `run "make .tools/chromium"`) {
			t.Errorf("CHROMIUM=%s: %v", set, err)
		}
	}
}
