package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/demo/process"
)

// Sidecar is a running `keywicket serve`.
type Sidecar struct {
	*process.Process
	// GRPC and Operations are the addresses it listens on.
	GRPC, Operations string
}

// Issuer is a running `keywicket issuer`.
type Issuer struct {
	*process.Process
	// Addr is the address it listens on.
	Addr string
}

// Stop asks the sidecar to drain, and waits until it has ended.
func (s *Sidecar) Stop() error { return s.Process.Stop(10 * time.Second) }

// Stop asks the issuer to answer what it was asked, and waits until it has ended.
func (i *Issuer) Stop() error { return i.Process.Stop(10 * time.Second) }

func startSidecar(ctx context.Context, c Config, databaseURL string) (*Sidecar, error) {
	feedURL := databaseURL
	if c.Database != nil {
		databaseURL, feedURL = c.Database(databaseURL)
	}
	s := &Sidecar{}
	p, err := start(ctx, c, "serve", func() (string, []string) {
		free := freeAddresses(2)
		s.GRPC, s.Operations = free[0], free[1]
		return s.Operations, []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL,
			"KEYWICKET_DATABASE_FEED_URL=" + feedURL,
			"KEYWICKET_LISTEN_GRPC=" + s.GRPC,
			"KEYWICKET_LISTEN_OPERATIONS=" + s.Operations,
		}
	})
	if err != nil {
		return nil, err
	}
	s.Process = p
	return s, nil
}

// startIssuer starts one whom the outside knows by the URL.
func startIssuer(ctx context.Context, c Config, databaseURL, url string) (*Issuer, error) {
	i := &Issuer{}
	p, err := start(ctx, c, "issuer", func() (string, []string) {
		i.Addr = freeAddresses(1)[0]
		return i.Addr, []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL,
			"KEYWICKET_ISSUER_LISTEN=" + i.Addr,
			"KEYWICKET_ISSUER_URL=" + url,
		}
	})
	if err != nil {
		return nil, err
	}
	i.Process = p
	return i, nil
}

// start runs a command of keywicket's until it is ready. The settings are asked for anew with each try: a free port may be
// taken before the process gets to it.
func start(ctx context.Context, c Config, command string, settings func() (probe string, environ []string)) (*process.Process, error) {
	binary := c.Keywicket
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the running program: %w", err)
		}
		binary = self
	}
	const tries = 3
	for try := 1; ; try++ {
		probe, own := settings()
		p, err := process.Start(process.Config{
			Path: binary, Args: []string{command}, Env: environ(slices.Concat(c.Environ, own)...), Output: c.Log,
		})
		if err != nil {
			return nil, err
		}
		if err = ready(ctx, p, command, probe); err == nil {
			return p, nil
		}
		err = errors.Join(err, p.Stop(10*time.Second))
		if try == tries || !strings.Contains(err.Error(), "is in use") {
			return nil, err
		}
	}
}

// ready asks /readyz until it answers 200.
func ready(ctx context.Context, p *process.Process, command, probe string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+probe+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.Done():
			return cmp.Or(p.Err(), fmt.Errorf("keywicket %s ended before it was ready", command))
		case <-ctx.Done():
			return fmt.Errorf("keywicket %s was not ready in time: %w", command, cmp.Or(err, ctx.Err()))
		case <-tick.C:
		}
	}
}
