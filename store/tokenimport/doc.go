// Package tokenimport imports a product's existing tokens, all or none.
package tokenimport
