// Package store keeps keywicket's tokens, workspaces and members in Postgres, and answers from there.
//
// It has two sides. A [Directory] is the sidecar's (the PIP): it answers checks with one prepared, indexed query, within a
// deadline, and opens whether or not the database is up, because a sidecar must start beside a database that does not. A
// [Registry] is the operator's (the PAP): it creates, lists and revokes, and says at once what is wrong.
//
// Everything lives in the Postgres schema keywicket. [Migrate] brings it up to date, forward only.
//
// Time is always the database's: many sidecars judge one token, and their clocks differ. A credential itself never
// gets here; the database holds its SHA-256.
package store
