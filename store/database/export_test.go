package database

import "net"

// DSN returns lib/pq's configuration for a database URL, as text. The listener for notifications uses this configuration.
func DSN(databaseURL string) (string, error) {
	s, err := Parse(databaseURL)
	return s.DSN, err
}

// ConnectError and CheckVersion are for tests of errors that the server of the tests cannot send.
var (
	ConnectError = connectError
	CheckVersion = checkVersion
)

// ReadURL returns those settings of a URL that are not in lib/pq's configuration.
func ReadURL(databaseURL string) (pooled bool, keepAlive net.KeepAliveConfig, err error) {
	s, err := Parse(databaseURL)
	return s.pooled, s.KeepAlive, err
}
