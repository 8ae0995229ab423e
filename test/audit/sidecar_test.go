package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/demo/process"
)

// checkTimeout is the timeout of a check. Envoy's timeout is half a second, but the audit also judges the answers of a sidecar
// that was frozen for longer.
const checkTimeout = 3 * time.Second

// sidecar is a process `keywicket serve`. It reaches its database through two proxies that no other sidecar uses.
type sidecar struct {
	binary           string
	environ          []string
	grpc, operations string // addresses
	lookups, feed    *toxiproxy.Proxy
	log              io.Writer

	conn    *grpc.ClientConn
	client  authv3.AuthorizationClient
	last503 atomic.Int64 // time of the last 503, on the clock of the history

	mu      sync.Mutex
	process *process.Process
}

// newSidecar starts a sidecar. The parameters `lookups` and `feed` are the targets of the two proxies.
func newSidecar(proxies *toxiproxy.ApiServer, binary, login, lookups, feed string, log io.Writer, environ []string) (_ *sidecar, err error) {
	s := &sidecar{binary: binary, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	var urls [2]string
	for i, path := range []struct {
		proxy  **toxiproxy.Proxy
		target string
	}{{&s.lookups, lookups}, {&s.feed, feed}} {
		p := toxiproxy.NewProxy(proxies, "p", "127.0.0.1:0", path.target)
		if err := p.Start(); err != nil {
			return nil, err
		}
		*path.proxy = p
		if urls[i], err = withAddress(login, p.Listen); err != nil {
			return nil, err
		}
	}
	if s.grpc, s.operations, err = freeAddresses(); err != nil {
		return nil, err
	}
	inherited := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KEYWICKET_") })
	s.environ = slices.Concat(inherited, environ, []string{
		"KEYWICKET_DATABASE_URL=" + urls[0], "KEYWICKET_DATABASE_FEED_URL=" + urls[1],
		"KEYWICKET_LISTEN_GRPC=" + s.grpc, "KEYWICKET_LISTEN_OPERATIONS=" + s.operations, "KEYWICKET_LISTEN_LAME_DUCK=0s",
	})
	// Reconnect to a killed sidecar as soon as it runs again.
	s.conn, err = grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, err
	}
	s.client = authv3.NewAuthorizationClient(s.conn)
	return s, s.run()
}

// withAddress returns the login's URL with another address.
func withAddress(login, address string) (string, error) {
	u, err := url.Parse(login)
	if err != nil {
		return "", err
	}
	u.Host = address
	return u.String(), nil
}

// run starts the process. It may be called again after the process has exited.
func (s *sidecar) run() error {
	p, err := process.Start(process.Config{Path: s.binary, Args: []string{"serve"}, Env: s.environ, Output: s.log})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	return nil
}

func (s *sidecar) currentProcess() *process.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

func (s *sidecar) signal(signal os.Signal) error { return s.currentProcess().Signal(signal) }

// waitReady waits until /readyz reports that the sidecar is ready.
func (s *sidecar) waitReady(ctx context.Context) error {
	p := s.currentProcess()
	return await(ctx, "the sidecar is ready", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return fmt.Errorf("the sidecar has exited: %w", p.Err())
		default:
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.operations+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		if answer.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(answer.Body)
			return fmt.Errorf("%s: %s", answer.Status, text)
		}
		return nil
	})
}

// check sends a check to the sidecar and returns the outcome.
func (s *sidecar) check(ctx context.Context, q *authv3.CheckRequest) outcome {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	answer, err := s.client.Check(ctx, q)
	if err != nil {
		return unavailable
	}
	if answer.GetOkResponse() != nil && answer.GetStatus().GetCode() == int32(codes.OK) {
		return allow
	}
	switch answer.GetDeniedResponse().GetStatus().GetCode() {
	case http.StatusUnauthorized:
		return unauthorized
	case http.StatusForbidden:
		return forbidden
	case http.StatusServiceUnavailable:
		return unavailable
	}
	return otherAnswer
}

func (s *sidecar) close() error {
	var err error
	if s.conn != nil {
		err = s.conn.Close()
	}
	if p := s.currentProcess(); p != nil {
		const grace = 10 * time.Second
		err = errors.Join(err, p.Stop(grace))
	}
	for _, p := range []*toxiproxy.Proxy{s.lookups, s.feed} {
		if p != nil {
			p.Stop()
		}
	}
	return err
}

// freeAddresses returns two addresses with free ports.
func freeAddresses() (one, other string, err error) {
	var addresses [2]string
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer func() { _ = l.Close() }()
		addresses[i] = l.Addr().String()
	}
	return addresses[0], addresses[1], nil
}
