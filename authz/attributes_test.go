package authz_test

import (
	"encoding/json"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestAttributesAreAnObject(t *testing.T) {
	for a, want := range map[authz.Attributes]string{
		"": `{"a":{}}`, `{}`: `{"a":{}}`, `{"n": 12345678901234567890.10}`: `{"a":{"n":12345678901234567890.10}}`,
	} {
		got, err := json.Marshal(map[string]authz.Attributes{"a": a})
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v, not %s", a, got, err, want)
		}
		var decoded map[string]authz.Attributes
		if err := json.Unmarshal(got, &decoded); err != nil || `{"a":`+decoded["a"].JSON()+`}` != want {
			t.Errorf("%s is read as %q, %v", got, decoded["a"], err)
		}
	}
	var a authz.Attributes
	for _, text := range []string{`[]`, `"{}"`, `null`, `1`} {
		if err := json.Unmarshal([]byte(text), &a); err == nil {
			t.Errorf("%s is read as %q", text, a)
		}
	}
	if got, err := json.Marshal(authz.Attributes(`{"a"`)); err == nil {
		t.Errorf("invalid JSON is written as %s", got)
	}
}
