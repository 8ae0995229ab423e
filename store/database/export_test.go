package database

import "net"

// DSN returns the lib/pq configuration for a database URL. The listener for notifications uses this configuration.
func DSN(databaseURL string) (string, error) {
	s, err := Parse(databaseURL)
	return s.DSN, err
}

// ConnectError and CheckVersion are for tests of errors that the tests' server cannot send.
var (
	ConnectError = connectError
	CheckVersion = checkVersion
)

// ReadURL returns the settings of a URL that are not in lib/pq's configuration.
func ReadURL(databaseURL string) (pooled bool, keepAlive net.KeepAliveConfig, err error) {
	s, err := Parse(databaseURL)
	return s.pooled, s.KeepAlive, err
}
