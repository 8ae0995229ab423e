// Package browser drives a real Chromium for tests. Where a form goes, which frame is refused, what fits on a telephone and
// what a screen reader is told are for a browser to show.
//
// Nothing here waits for a time: each step waits for what it needs, and fails the test if that does not come.
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

	"github.com/keywicket/keywicket/internal/fetched"
)

// patience is how long a step may take. It is long because CI is slow, and short beside a test's own limit.
const patience = 30 * time.Second

var errNone = errors.New(`no Chromium: run "make .tools/chromium", or set CHROMIUM to its binary`)

// Find returns the Chromium to run: the environment's CHROMIUM, else chromium, chromium-browser or google-chrome on PATH,
// else .tools/chromium in the working folder or in a parent of it, up to the one that holds go.mod.
func Find() (string, error) {
	if path := os.Getenv("CHROMIUM"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("CHROMIUM=%s cannot be run: %w", path, errNone)
		}
		return filepath.Abs(found)
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	if path, ok := fetched.Find(".tools/chromium"); ok {
		return path, nil
	}
	return "", errNone
}

// Browser is a running Chromium without a window, with a profile of its own. It reaches this machine alone. Several
// goroutines may use it.
type Browser struct {
	ctx    context.Context // chromedp's name of the browser, which lives as long
	cancel context.CancelFunc
}

// Start runs Chromium and returns when it answers. It ends with Close, or with the test's process, however that ends; the
// context is for the start alone.
func Start(ctx context.Context) (*Browser, error) {
	binary, err := Find()
	if err != nil {
		return nil, err
	}
	// chromedp makes the profile and removes it, ends every process that has it, and leaves the sandbox out for root, for
	// whom Chromium has none. It speaks over a pipe: no port is opened.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary),
		// Names under localhost are sites of their own, and need no resolver.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost , EXCLUDE *.localhost"),
		chromedp.ProxyServer("direct://"), // the environment may have another, which would resolve names by itself
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true),
		// A frame of another site would otherwise be a target of its own, and no part of its page.
		chromedp.Flag("disable-site-isolation-trials", true),
		chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,IsolateOrigins,site-per-process"),
	)
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(ctx), options...)
	quiet := func(string, ...any) {} // about events that are newer than chromedp; what fails is an error
	browser, _ := chromedp.NewContext(allocator, chromedp.WithLogf(quiet), chromedp.WithErrorf(quiet))
	// The browser lives as long as the context of its first step, which therefore has no deadline of its own.
	ctx, started := context.WithTimeout(ctx, patience)
	defer started()
	late := context.AfterFunc(ctx, cancel)
	if err := chromedp.Do(browser); err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	late()
	return &Browser{ctx: browser, cancel: cancel}, nil
}

// Close ends Chromium and removes its profile. Closing twice is no error.
func (b *Browser) Close() error {
	if b.ctx.Err() != nil {
		return nil
	}
	defer b.cancel()
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	if err := chromedp.Cancel(ctx); err != nil {
		return fmt.Errorf("end Chromium: %w", err)
	}
	return nil
}
