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

func startSidecar(ctx context.Context, c Config, databaseURL string) (*Sidecar, error) {
	binary := c.Keywicket
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the running program: %w", err)
		}
		binary = self
	}
	// A free port may be taken before the sidecar gets to it.
	const tries = 3
	for try := 1; ; try++ {
		s, err := tryToStartSidecar(ctx, c, binary, databaseURL)
		if err == nil || try == tries || !strings.Contains(err.Error(), "is in use") {
			return s, err
		}
	}
}

func tryToStartSidecar(ctx context.Context, c Config, binary, databaseURL string) (*Sidecar, error) {
	free := freeAddresses(2)
	feedURL := databaseURL
	if c.Database != nil {
		databaseURL, feedURL = c.Database(databaseURL)
	}
	s := &Sidecar{GRPC: free[0], Operations: free[1]}
	var err error
	s.Process, err = process.Start(process.Config{
		Path: binary,
		Args: []string{"serve"},
		Env: environ(slices.Concat(c.Environ, []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL,
			"KEYWICKET_DATABASE_FEED_URL=" + feedURL,
			"KEYWICKET_LISTEN_GRPC=" + s.GRPC,
			"KEYWICKET_LISTEN_OPERATIONS=" + s.Operations,
		})...),
		Output: c.Log,
	})
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop asks the sidecar to drain, and waits until it has ended.
func (s *Sidecar) Stop() error { return s.Process.Stop(10 * time.Second) }

// ready asks /readyz until it answers 200.
func (s *Sidecar) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Operations+"/readyz", nil)
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
		case <-s.Done():
			return cmp.Or(s.Err(), errors.New("the sidecar ended before it was ready"))
		case <-ctx.Done():
			return fmt.Errorf("the sidecar was not ready in time: %w", cmp.Or(err, ctx.Err()))
		case <-tick.C:
		}
	}
}
