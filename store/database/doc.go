// Package database connects to Postgres. It reads a database URL as libpq does, opens connections, and adds remedies to errors.
// The other packages of the store use this package. They compare times with the clock of the database, because the clocks of
// sidecars differ from one another.
package database
