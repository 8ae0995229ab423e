package envoy_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
)

func TestLogHasTheDecisionIDAndNoSecret(t *testing.T) {
	r := serve(t, envoy.Config{}, found, principalsOnly)
	got := check(t, r, validRequest)
	id := got.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
	log := r.log.String()
	if id == "" || !strings.Contains(log, id) || !strings.Contains(log, `"subject":"t1"`) || strings.Contains(log, key) {
		t.Errorf("log %s", log)
	}
}

func TestAllowsAreSampled(t *testing.T) {
	for sample, want := range map[int]int{0: 0, 1: 9, 4: 3} {
		r := serve(t, envoy.Config{AllowSample: sample}, found, principalsOnly)
		for range 9 {
			check(t, r, validRequest)
			check(t, r, requestWithHeaders())
		}
		if got := strings.Count(r.log.String(), `"level":"INFO"`); got != want+9 {
			t.Errorf("1 in %d: %d of 9 allows and 9 denials are logged at info, want %d and 9", sample, got, want)
		}
		if got := strings.Count(r.log.String(), `"msg":"decision"`); got != 18 {
			t.Errorf("1 in %d: %d decisions are logged", sample, got)
		}
	}
}

func TestEveryAnswerIsObserved(t *testing.T) {
	observed := make(chan authz.Answer, 2)
	r := serve(t, envoy.Config{Observe: func(a authz.Answer) { observed <- a }}, found, principalsOnly)
	check(t, r, validRequest)
	check(t, r, requestWithHeaders())
	if a := <-observed; !a.Allow {
		t.Errorf("got %+v", a)
	}
	if a := <-observed; a.Reason != authz.ReasonMissing {
		t.Errorf("got %+v", a)
	}
}
