// Package answers tests the answer to each kind of request, through a real Envoy and in process. matrix_test.go sends a
// request to every route in the tables of both APIs. The files in ../cases test the sentences of the API documents of
// VelaFlows and Velocity.
package answers

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
