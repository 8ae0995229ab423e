// Package storetest contains helpers for tests of the store: a Postgres server, databases with a fixture, and network faults.
// Only tests import it.
package storetest
