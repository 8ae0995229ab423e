// Package storetest is what the tests of the store's packages share: a Postgres server, databases with a fixture, and faults of the
// network. Only tests import it.
package storetest
