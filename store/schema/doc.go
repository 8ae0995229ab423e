// Package schema creates and updates the Postgres schema keywicket, which has all tables of the store. Its migrations go forward only.
//
// No table has a credential, only its SHA-256.
package schema
