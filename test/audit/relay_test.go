package audit

import (
	"bufio"
	"fmt"
	"net"
	"testing"
)

// The audit simulates a failover with this relay. The simulation is realistic only if open connections stay connected to the
// old primary.
func TestRelayRedirectsNewConnections(t *testing.T) {
	old, other := startNamedServer(t, "old"), startNamedServer(t, "other")
	r, err := newRelay(old)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	dial := func() (readName func() string) {
		c, err := net.Dial("tcp", r.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		lines := bufio.NewScanner(c)
		return func() string {
			fmt.Fprintln(c, "name?")
			lines.Scan()
			return lines.Text()
		}
	}
	before := dial()
	if got := before(); got != "old" {
		t.Errorf("%q at first", got)
	}
	r.setTarget(other)
	if got := before(); got != "old" {
		t.Errorf("an open connection reaches %q", got)
	}
	if got := dial()(); got != "other" {
		t.Errorf("a new connection reaches %q", got)
	}
}

// startNamedServer starts a server that answers each line with the name.
func startNamedServer(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name)
				}
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}
