package source

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

func TestFailureOfASlowTest(t *testing.T) {
	got := failure(&tester.Result{Name: "test_a", Error: &topdown.Error{Code: topdown.CancelErr, Message: "caller cancelled query execution"}}, nil)
	if got != "the test test_a takes more than 1m0s" {
		t.Errorf("got %q", got)
	}
}
