// Package database connects to Postgres. It reads a database URL as libpq does, opens connections by it, and explains errors of
// connecting and of queries to the operator. The other packages of the store build on it.
//
// All times are judged by the database's clock, because the clocks of sidecars differ.
package database
