// Package store keeps keywicket's tokens, workspaces and members in Postgres, and answers look-ups from there.
//
// It has two sides. A [Directory] serves the sidecar (the PIP). It answers look-ups within a deadline, with one prepared query that
// uses indexes. It opens even while the database is down, because a sidecar must be able to start then. A [registry.Registry] serves the
// operator (the PAP): it creates, lists and revokes, and reports errors at once.
//
// All tables are in the Postgres schema keywicket. [schema.Migrate] updates it, forward only.
//
// All times are judged by the database's clock, because the clocks of sidecars differ. The package never stores a credential itself,
// only its SHA-256.
package directory
