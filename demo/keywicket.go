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
	// GRPC and Operations are the addresses that the sidecar listens on.
	GRPC, Operations string

	config      Config
	databaseURL string
}

// Issuer is a running `keywicket issuer`.
type Issuer struct{ webServer }

// Console is a running `keywicket console`.
type Console struct{ webServer }

// webServer is a running process that serves HTTP.
type webServer struct {
	*process.Process
	// Addr is the address that the process listens on.
	Addr string
}

// Stop asks the sidecar to drain, and waits until it has ended.
func (s *Sidecar) Stop() error { return s.Process.Stop(10 * time.Second) }

// Stop asks the process to finish its open requests, and waits until it has ended.
func (s *webServer) Stop() error { return s.Process.Stop(10 * time.Second) }

func startSidecar(ctx context.Context, c Config, databaseURL string) (*Sidecar, error) {
	s := &Sidecar{config: c, databaseURL: databaseURL}
	return s, s.start(ctx, func() {
		free := freeAddresses(2)
		s.GRPC, s.Operations = free[0], free[1]
	})
}

// Restart waits until the sidecar has ended, starts it again at the same addresses, and returns when it is ready.
func (s *Sidecar) Restart(ctx context.Context) error {
	select {
	case <-s.Done():
	case <-ctx.Done():
		return fmt.Errorf("restart the sidecar: it has not ended: %w", ctx.Err())
	}
	return s.start(ctx, func() {})
}

// start runs the sidecar. Before each try, it calls the function chooseAddresses, which sets the addresses.
func (s *Sidecar) start(ctx context.Context, chooseAddresses func()) (err error) {
	databaseURL, feedURL := s.databaseURL, s.databaseURL
	if s.config.Database != nil {
		databaseURL, feedURL = s.config.Database(databaseURL)
	}
	p, err := start(ctx, s.config, "serve", func() (string, []string) {
		chooseAddresses()
		return s.Operations, []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL,
			"KEYWICKET_DATABASE_FEED_URL=" + feedURL,
			"KEYWICKET_LISTEN_GRPC=" + s.GRPC,
			"KEYWICKET_LISTEN_OPERATIONS=" + s.Operations,
		}
	})
	if err != nil {
		return err
	}
	s.Process = p
	return nil
}

// startIssuer starts an issuer.
func startIssuer(ctx context.Context, c Config, databaseURL string) (*Issuer, error) {
	s, err := startWebServer(ctx, c, "issuer", databaseURL)
	if err != nil {
		return nil, err
	}
	return &Issuer{s}, nil
}

// startConsole starts a console.
func startConsole(ctx context.Context, c Config, databaseURL string) (*Console, error) {
	s, err := startWebServer(ctx, c, "console", databaseURL)
	if err != nil {
		return nil, err
	}
	return &Console{s}, nil
}

// startWebServer starts a keywicket command that serves HTTP. The name of the command is also the name of its configuration section.
func startWebServer(ctx context.Context, c Config, command, databaseURL string) (s webServer, err error) {
	s.Process, err = start(ctx, c, command, func() (string, []string) {
		s.Addr = freeAddresses(1)[0]
		return s.Addr, []string{
			"KEYWICKET_DATABASE_URL=" + databaseURL,
			"KEYWICKET_" + strings.ToUpper(command) + "_LISTEN=" + s.Addr,
		}
	})
	return s, err
}

// noLameDuck disables the wait of a sidecar before it stops. During this wait, other sidecars take over its requests, but the demo
// usually has only one sidecar.
const noLameDuck = "KEYWICKET_LISTEN_LAME_DUCK=0s"

// start starts a keywicket command and returns when the command is ready. Each try calls the function settings again, because
// another process may take a free port before this command listens on it.
func start(ctx context.Context, c Config, command string, settings func() (readyAddress string, environ []string)) (*process.Process, error) {
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
		readyAddress, variables := settings()
		p, err := process.Start(process.Config{
			Path: binary, Args: []string{command}, Env: environ(slices.Concat([]string{noLameDuck}, c.Environ, variables)...), Output: c.Log,
		})
		if err != nil {
			return nil, err
		}
		if err = ready(ctx, p, command, readyAddress); err == nil {
			return p, nil
		}
		err = errors.Join(err, p.Stop(10*time.Second))
		if try == tries || !strings.Contains(err.Error(), "is in use") {
			return nil, err
		}
	}
}

// ready requests /readyz at the address until the response is 200, the process ends, or 30 seconds have passed.
func ready(ctx context.Context, p *process.Process, command, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
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
