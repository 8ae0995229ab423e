// Package tokenimport reads a product's existing tokens from CSV or NDJSON, and stores all of them or none.
package tokenimport
