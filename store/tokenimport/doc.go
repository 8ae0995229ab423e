// Package tokenimport reads a product's existing tokens from CSV or NDJSON, and stores either all of them or none.
package tokenimport
