// Package policies tests the instructions of docs/policies.md for authors of policies, who change data and rules, but no Go
// code.
package policies

import (
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

var deployment *harness.Deployment

func TestMain(m *testing.M) { harness.Main(m, &deployment) }
