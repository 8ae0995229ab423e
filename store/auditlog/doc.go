// Package auditlog reads the audit log: the record of who changed which token, app, user or workspace. Triggers of the database write
// it (store/schema/migrations).
package auditlog
