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
		`{"a":1,"a":1}`:                     "occurs twice",
		`{"a":1,"\u0061":2}`:                "occurs twice",
		`{"a":1}{}`:                         "continues after",
		`{"a":1} x`:                         "continues after",
		"{}\v":                              "continues after",
		"{}\u00a0":                          "continues after",
		`[]`:                                "not an object",
		`null`:                              "not an object",
		``:                                  "not an object",
		`{"a"}`:                             "not JSON",
		`{"a":}`:                            "not JSON",
		`{"a":1,}`:                          "not JSON",
		`{"a":1`:                            "not JSON",
		`{1:1}`:                             "not JSON",
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
