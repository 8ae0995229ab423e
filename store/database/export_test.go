package database

import "net"

// FeedURL returns the configuration that the listener gets for a database URL.
func FeedURL(databaseURL string) (string, error) {
	s, err := Parse(databaseURL)
	return s.DSN, err
}

// ConnectError and CheckVersion are for tests of errors that come from servers that the tests cannot start.
var (
	ConnectError = connectError
	CheckVersion = checkVersion
)

// ReadURL returns the settings of a URL that are not in lib/pq's configuration.
func ReadURL(databaseURL string) (pooled bool, keepAlive net.KeepAliveConfig, err error) {
	s, err := Parse(databaseURL)
	return s.pooled, s.KeepAlive, err
}
