package threats

import (
	"testing"

	"github.com/keywicket/keywicket/test/harness"
)

var deployment *harness.Deployment

func TestMain(m *testing.M) { harness.Main(m, &deployment) }
