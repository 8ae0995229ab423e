// Package policies tests what docs/policies.md tells the authors of policies: they change data and rules, and no Go code.
package policies

import (
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

var deployment *harness.Deployment

func TestMain(m *testing.M) { harness.Main(m, &deployment) }
