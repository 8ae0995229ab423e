// Package listener opens the addresses on which a process listens.
package listener

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Open opens a listener on host:port or unix:///path. The parameter `key` is the configuration key of the address. Every error
// message contains this key.
func Open(key, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return listenUnix(key, path)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("%s: %q is neither host:port nor unix:///path", key, address)
	}
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use: stop the process that listens there, or choose another address", key, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return listener, nil
}

// listenUnix opens a listener on a Unix socket. A process that was killed may have left its socket file, which accepts no
// connections. listenUnix replaces such a file, but no other file.
func listenUnix(key, path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: %q is not an absolute path: write unix:///path", key, path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s: %s exists and is not a socket: choose another path", key, path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: %s is in use: stop the process that listens there, or choose another path", key, path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("%s: the unused socket %s cannot be removed: %w", key, path, err)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return listener, nil
}
