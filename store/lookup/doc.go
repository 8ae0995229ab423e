// Package lookup contains the queries for look-ups of credentials, and reads their rows. The sidecar and the operator's commands
// get the same answers, because they use the same queries.
package lookup
