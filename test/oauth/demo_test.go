package oauth

import (
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
)

func startDemo(t *testing.T, environ ...string) *demo.Demo {
	t.Helper()
	return harness.StartDemo(t, demo.Config{Environ: append(environ, harness.ShortStaleness)})
}
