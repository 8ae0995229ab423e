// Package storetest contains helpers for tests of the store: a Postgres server, databases with test data, and network faults.
// Only tests import this package.
package storetest
