// Package browser runs a real Chromium for tests. Only a browser shows where a form is sent, which frame is refused, what fits on a
// phone, and what a screen reader receives.
//
// A step is one call of a method of Page, such as Visit. No step waits for a fixed time: each one waits for the state that it
// needs. If that state does not occur in time, the test fails.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/keywicket/keywicket/internal/modulefile"
)

// stepTimeout is the time limit of a step. It is long because CI is slow, and short compared with a test's own limit.
const stepTimeout = 30 * time.Second

var errNotFound = errors.New(`no Chromium: run "make .tools/chromium", or set CHROMIUM to its binary`)

// Find returns the path of Chromium. If the environment variable CHROMIUM is set, Find uses its value. Otherwise Find
// searches PATH for chromium, chromium-browser and google-chrome. Then it searches the working folder and its parents, up
// to the folder that contains go.mod, for .tools/chromium.
func Find() (string, error) {
	if path := os.Getenv("CHROMIUM"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("CHROMIUM=%s cannot be run: %w", path, errNotFound)
		}
		return filepath.Abs(found)
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	if path, ok := modulefile.Find(".tools/chromium"); ok {
		return path, nil
	}
	return "", errNotFound
}

// Browser is a running headless Chromium with its own profile. It can reach only this machine. Several goroutines may use
// it.
type Browser struct {
	ctx    context.Context // identifies the browser for chromedp; done when the browser exits
	cancel context.CancelFunc
}

// Start runs Chromium and returns when it answers. Chromium exits at Close, or when the test's process exits for any reason. The
// context limits only the start.
func Start(ctx context.Context) (*Browser, error) {
	binary, err := Find()
	if err != nil {
		return nil, err
	}
	// chromedp creates and removes the profile, and kills every process that uses it. If root runs the tests, chromedp disables
	// Chromium's sandbox, because the sandbox does not work for root. chromedp communicates over a pipe, so no port is opened.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary),
		// Names under localhost are separate sites, and need no resolver.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost , EXCLUDE *.localhost"),
		chromedp.ProxyServer("direct://"), // a proxy from the environment variables would resolve names itself
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true),
		// Without these flags, a frame of another site would be a separate DevTools target, not a part of its page.
		chromedp.Flag("disable-site-isolation-trials", true),
		chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,IsolateOrigins,site-per-process"),
	)
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(ctx), options...)
	quiet := func(string, ...any) {} // drops messages about events that chromedp does not know; failures are returned as errors
	browser, _ := chromedp.NewContext(allocator, chromedp.WithLogf(quiet), chromedp.WithErrorf(quiet))
	// The browser exits when the context of its first step is done. Therefore, the context of the first step has no deadline.
	ctx, cancelStart := context.WithTimeout(ctx, stepTimeout)
	defer cancelStart()
	disarm := context.AfterFunc(ctx, cancel)
	if err := chromedp.Do(browser); err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	disarm()
	return &Browser{ctx: browser, cancel: cancel}, nil
}

// Close stops Chromium and removes its profile. Closing twice is not an error.
func (b *Browser) Close() error {
	if b.ctx.Err() != nil {
		return nil
	}
	defer b.cancel()
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	if err := chromedp.Cancel(ctx); err != nil {
		return fmt.Errorf("stop Chromium: %w", err)
	}
	return nil
}
