// Package envoyproxy runs a real Envoy, the binary that operators run. The demo and the end-to-end tests use it. Only a real
// Envoy shows how Envoy handles a path, a repeated header or a dead sidecar.
package envoyproxy

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

	"github.com/keywicket/keywicket/demo/process"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/internal/modulefile"
)

// Config is the configuration of a Proxy. Only its field Config is required.
type Config struct {
	// Config is Envoy's configuration, with static listeners and an admin address.
	Config []byte

	// Dir is the folder for the configuration file, which Stop removes. Empty: the system's temporary folder.
	Dir string

	// Log receives Envoy's access log (standard output, one JSON object per line) and its application log (standard error). Nil:
	// both logs are dropped. Errors always contain the last lines of the output.
	Log io.Writer
}

// Proxy is a running Envoy.
type Proxy struct {
	process *process.Process
	file    string
	admin   string
}

var errNoEnvoy = errors.New(`no Envoy: run "make .tools/envoy", or set ENVOY to an Envoy 1.40 binary`)

// Find returns the path of Envoy: the value of the environment variable ENVOY, or else envoy on PATH, or else .tools/envoy. It
// searches for .tools/envoy in the working folder and its parents, up to the folder that contains go.mod.
func Find() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		if !executable(path) {
			return "", fmt.Errorf("ENVOY=%s cannot be run: %w", path, errNoEnvoy)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	if path, ok := modulefile.Find(".tools/envoy"); ok && executable(path) {
		return path, nil
	}
	return "", errNoEnvoy
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Start starts Envoy and returns when Envoy is ready: Envoy has loaded its configuration and finished the first health checks. If
// an address is in use, the error wraps syscall.EADDRINUSE.
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
		return nil, errors.New("envoy: the configuration has no admin address: add one, because only the admin interface reports whether Envoy is ready")
	}
	if err := checkFree(addresses); err != nil {
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
			// Hot restart shares memory between Envoys of the same base id. Without hot restart, Envoys do not affect each
			// other, and leave nothing in /dev/shm.
			"--disable-hot-restart",
			// Two workers are enough to show effects that need several workers. By default, Envoy starts one worker for each CPU.
			"--concurrency", "2",
			"--log-level", "warning",
			"--file-flush-interval-msec", "100", // interval of writes to the access log; 10 s by default
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

// Admin returns the address of Envoy's admin interface, as host:port.
func (p *Proxy) Admin() string { return p.admin }

// PID returns Envoy's process id.
func (p *Proxy) PID() int { return p.process.PID() }

// Done returns a channel that is closed when Envoy has ended. Err then returns the reason.
func (p *Proxy) Done() <-chan struct{} { return p.process.Done() }

// Err returns why Envoy ended by itself, with its last lines of output. It returns nil while Envoy runs and after Stop.
func (p *Proxy) Err() error { return p.process.Err() }

// Stop ends Envoy and its connections, and removes the configuration file. Calling Stop twice is not an error.
func (p *Proxy) Stop() error {
	var err error
	if p.process != nil {
		err = p.process.Stop(5 * time.Second)
	}
	if removeErr := os.Remove(p.file); removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
		err = errors.Join(err, removeErr)
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

// checkFree returns a one-line error if an address is in use. The check must come before the start, because an Envoy can share its
// ports with another Envoy of the same user (SO_REUSEPORT). The other Envoy would then receive a part of the requests.
func checkFree(addresses bootstrap.Addresses) error {
	places := map[string]string{"admin interface": addresses.Admin}
	for name, address := range addresses.Listeners {
		places["listener "+name] = address
	}
	for _, place := range slices.Sorted(maps.Keys(places)) {
		address := places[place]
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("envoy's %s cannot listen on %s: stop the process that listens there: %w",
				place, address, errors.Unwrap(err))
		}
		_ = l.Close()
	}
	return nil
}

var addressInUse = regexp.MustCompile(`cannot bind '([^']+)': Address already in use`)

// startError returns the error for an Envoy that ended before it was ready.
func startError(err error) error {
	switch {
	case err == nil:
		return errors.New("envoy ended before it was ready: is it really an Envoy 1.40?")
	case addressInUse.MatchString(err.Error()): // the address was free in checkFree
		return fmt.Errorf("envoy cannot listen on %s: stop the process that listens there: %w",
			addressInUse.FindStringSubmatch(err.Error())[1], syscall.EADDRINUSE)
	}
	return err
}

// ready polls the admin interface until Envoy is ready, Envoy ends, or the context is canceled.
func (p *Proxy) ready(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("no request to its admin interface yet")
	for {
		select {
		case <-p.process.Done():
			return startError(p.process.Err())
		case <-ctx.Done():
			return fmt.Errorf("envoy is not ready: %w: %w", ctx.Err(), last)
		case <-tick.C:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/ready", nil)
		if err != nil {
			return fmt.Errorf("envoy: %w", err)
		}
		response, err := client.Do(request)
		if err != nil {
			last = err
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("its admin interface responds with %s", response.Status)
	}
}
