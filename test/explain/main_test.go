// Package explain tests `keywicket explain`: the command names the cause of a denial and a fix, and the fix works.
package explain

import (
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

var deployment *harness.Deployment

func TestMain(m *testing.M) { harness.Main(m, &deployment) }
