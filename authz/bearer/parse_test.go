package bearer_test

import (
	"testing"

	"github.com/keywicket/keywicket/authz/bearer"
)

// TestCredential and FuzzAuthorizationHeader of package authz have more cases.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		value   string
		count   int
		token   string
		present bool
	}{
		{"", 0, "", false},
		{"", 1, "", false},
		{"Basic dXNlcjpwYXNz", 1, "", false},
		{"Bearer-ish abc", 1, "", false},
		{"Bearer", 1, "", true},
		{"Bearer\tabc", 1, "", true},
		{"Bearer a b", 1, "", true},
		{"Bearer =", 1, "", true},
		{"Bearer abc", 2, "", true},
		{"", 2, "", true},
		{"bEARER   a-._~+/b==", 1, "a-._~+/b==", true},
	} {
		if token, present := bearer.Parse(c.value, c.count); token != c.token || present != c.present {
			t.Errorf("%q, %d values: %q, %v", c.value, c.count, token, present)
		}
	}
}
