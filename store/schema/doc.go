// Package schema creates and updates the Postgres schema keywicket, which contains all tables of the store. Its migrations cannot
// be undone. The tables contain no credentials, only the SHA-256 of each credential.
package schema
