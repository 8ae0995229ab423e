// Package sessions tests the tokens of signed-in users through Envoy.
package sessions

import (
	"testing"

	"github.com/keywicket/keywicket/test/authorizer"
	"github.com/keywicket/keywicket/test/harness"
)

var (
	deployment *harness.Deployment
	inProcess  *authorizer.Authorizer // uses the deployment's database
)

func TestMain(m *testing.M) {
	harness.Main(m, &deployment, func() (err error) {
		inProcess, err = authorizer.Start(deployment)
		return err
	})
}
