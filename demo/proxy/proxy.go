// Package proxy runs a real Envoy, the binary that operators run. The demo and the end-to-end tests use it. Only a real
// Envoy shows how Envoy handles a path, a repeated header or a dead sidecar.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	bootstrap "github.com/keywicket/keywicket/deploy/envoy"

	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/internal/fetched"
)

// Config says what to run. Only Config is required.
type Config struct {
	// Config is Envoy's configuration, with static listeners and an admin address.
	Config []byte

	// Dir is the folder for the configuration's file, which Stop removes. Empty: the system's temporary folder.
	Dir string

	// Log gets Envoy's access log (standard output, one JSON object a line) and its own (standard error). Nil drops
	// both; an error carries the last lines all the same.
	Log io.Writer
}

// Proxy is a running Envoy.
type Proxy struct {
	process *process.Process
	file    string
	admin   string
}

var errNone = errors.New(`no Envoy: run "make .tools/envoy", or set ENVOY to an Envoy 1.40 binary`)

// Find returns the Envoy to run: the environment's ENVOY, else envoy on PATH, else .tools/envoy. It looks for .tools/envoy
// in the working folder and its parents, up to the one that holds go.mod.
func Find() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		if !executable(path) {
			return "", fmt.Errorf("ENVOY=%s cannot be run: %w", path, errNone)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	if path, ok := fetched.Find(".tools/envoy"); ok && executable(path) {
		return path, nil
	}
	return "", errNone
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Start runs Envoy and returns when it serves: when it has loaded everything and is done with the first health checks.
// An address that somebody else listens on is a syscall.EADDRINUSE.
func Start(ctx context.Context, config Config) (_ *Proxy, err error) {
	binary, err := Find()
	if err != nil {
		return nil, err
	}
	addresses, err := bootstrap.Read(config.Config)
	if err != nil {
		return nil, err
	}
	if addresses.Admin == "" {
		return nil, errors.New("envoy: the configuration has no admin address, which says when Envoy is ready")
	}
	if err := free(addresses); err != nil {
		return nil, err
	}
	p := &Proxy{admin: addresses.Admin}
	if p.file, err = write(config.Dir, config.Config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = p.Stop()
		}
	}()
	p.process, err = process.Start(process.Config{
		Path: binary,
		Args: []string{
			"--config-path", p.file,
			// Hot restart shares memory between Envoys of the same base id; without it they do not meet, and leave
			// nothing in /dev/shm.
			"--disable-hot-restart",
			// Two workers show what depends on there being several, and no more on a large machine.
			"--concurrency", "2",
			"--log-level", "warning",
			"--file-flush-interval-msec", "100", // the access log; 10 s by default
		},
		Output: config.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Admin is the address of Envoy's admin interface, as host:port.
func (p *Proxy) Admin() string { return p.admin }

// PID is Envoy's process id.
func (p *Proxy) PID() int { return p.process.PID() }

// Done is closed when Envoy has ended; Err then says why.
func (p *Proxy) Done() <-chan struct{} { return p.process.Done() }

// Err says why Envoy ended by itself, with its last lines of output. It is nil while it runs and after Stop.
func (p *Proxy) Err() error { return p.process.Err() }

// Stop ends Envoy, with the connections it has, and removes the configuration's file. Stopping twice is no error.
func (p *Proxy) Stop() error {
	var err error
	if p.process != nil {
		err = p.process.Stop(5 * time.Second)
	}
	if gone := os.Remove(p.file); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func write(dir string, config []byte) (string, error) {
	f, err := os.CreateTemp(dir, "keywicket-envoy-*.yaml")
	if err != nil {
		return "", fmt.Errorf("envoy: %w", err)
	}
	_, err = f.Write(config)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// free returns a one-line error for an address in use. The check must come before the start: an Envoy shares
// its ports with other Envoys of the same user (SO_REUSEPORT). The other Envoy would then get a part of the requests.
func free(addresses bootstrap.Addresses) error {
	places := map[string]string{"admin interface": addresses.Admin}
	for name, address := range addresses.Listeners {
		places["listener "+name] = address
	}
	for _, place := range slices.Sorted(maps.Keys(places)) {
		address := places[place]
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("envoy's %s cannot listen on %s: stop what listens there: %w",
				place, address, errors.Unwrap(err))
		}
		_ = l.Close()
	}
	return nil
}

var taken = regexp.MustCompile(`cannot bind '([^']+)': Address already in use`)

// ended explains an Envoy that did not get ready.
func ended(err error) error {
	switch {
	case err == nil:
		return errors.New("envoy ended before it was ready: is it really an Envoy 1.40?")
	case taken.MatchString(err.Error()): // since it was free
		return fmt.Errorf("envoy cannot listen on %s: stop what listens there: %w",
			taken.FindStringSubmatch(err.Error())[1], syscall.EADDRINUSE)
	}
	return err
}

// ready asks the admin interface until Envoy serves, has ended, or the context has.
func (p *Proxy) ready(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("it has not been asked")
	for {
		select {
		case <-p.process.Done():
			return ended(p.process.Err())
		case <-ctx.Done():
			return fmt.Errorf("envoy is not ready: %w: %w", ctx.Err(), last)
		case <-tick.C:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/ready", nil)
		if err != nil {
			return fmt.Errorf("envoy: %w", err)
		}
		answer, err := client.Do(request)
		if err != nil {
			last = err
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("its admin interface answers %s", answer.Status)
	}
}
