// Package settings contains the operations of the console. The pages and the management API call the same operations. Each operation
// acts for a [Caller], asks the package issuance what this caller may do, and names the caller in the audit log.
package settings
