// Package schema creates and updates the Postgres schema keywicket, which contains all tables of the store. Its migrations
// cannot be undone. The tables contain no whole credentials, only the SHA-256 of each credential and the visible prefix of each
// token.
package schema
