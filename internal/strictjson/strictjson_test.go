package strictjson_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/strictjson"
)

func TestObject(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                "",
		` { "a" : 1, "A": [1, {"b": 2}] } `: "",
		`{"a":1,"a":1}`:                     "second time",
		`{"a":1,"\u0061":2}`:                "second time",
		`{"a":1}{}`:                         "behind",
		`{"a":1} x`:                         "behind",
		"{}\v":                              "behind",
		"{}\u00a0":                          "behind",
		`[]`:                                "no",
		`null`:                              "no",
		``:                                  "no",
		`{"a"}`:                             "no JSON",
		`{"a":}`:                            "no JSON",
		`{"a":1,}`:                          "no JSON",
		`{"a":1`:                            "no JSON",
		`{1:1}`:                             "no JSON",
		"{\"a\":\"\xff\"}":                  "UTF-8",
	} {
		object, err := strictjson.Object([]byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, %v; want %s", text, object, err, want)
		}
	}
	object, err := strictjson.Object([]byte(`{"a": 1, "A": "x"}`))
	if err != nil || len(object) != 2 || string(object["a"]) != "1" || string(object["A"]) != `"x"` {
		t.Errorf("%s, %v", object, err)
	}
}
