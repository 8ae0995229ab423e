// Package tokenimport reads a product's existing tokens from CSV and NDJSON.
package tokenimport
