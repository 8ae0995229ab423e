package attributes_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/strictjson"
	"github.com/keywicket/keywicket/store/attributes"
	"github.com/keywicket/keywicket/store/storetest"
)

// keywicket and Postgres accept the same attributes, because keywicket computes the exact size of the text that Postgres writes.
func TestAttributesAreMeasuredLikePostgres(t *testing.T) {
	f := storetest.NewFixture(t)
	for _, text := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a" : [ ], "b":{}}`, `{"a":[1,2,3],"b":{"c":null,"d":true,"e":false}}`,
		`{"":""}`, `{"a":"\"\\\/\b\f\n\r\t\u0001\u001f\u007f\u0080"}`, "{\"a\":\"\u007f\u0080\u2028 <&>\"}", `{"é":"é😀\u00e9\ud83d\ude00"}`,
		`{"a":[0,-0,1,-1,10,0.5,-0.50,1.0,100.00]}`, `{"a":[1e2,1E+2,1e-2,12.34e1,12.34e5,0.001e2,0.001e5,0e5,0e-5,-0.0,-0e3,1.50e-3]}`,
		`{"a":[12345678901234567890.123456789,1e400,1e-400]}`, `{"a":[[[[{"a":[{}]}]]]]}`,
	} {
		size, err := attributes.Size(text)
		if want := storetest.Value[int](t, f.DB, `SELECT octet_length($1::jsonb::text)`, text); err != nil || size != want {
			t.Errorf("%s: %d, %v, not %d", text, size, err, want)
		}
	}
	for text, valid := range map[string]bool{
		`{"a":"` + strings.Repeat("a", 4096-9) + `"}`:                         true,
		`{"a":"` + strings.Repeat("a", 4096-8) + `"}`:                         false,
		`{"a":"` + strings.Repeat(`\u0061`, 4096-9) + `"}`:                    true,
		`{"a":` + strings.Repeat(" ", 9000) + `1}`:                            true,
		`{"a":1` + strings.Repeat("0", 4096-8) + `}`:                          true,
		`{"a":1e` + "4088" + `}`:                                              true,
		`{"a":1e` + "4089" + `}`:                                              false,
		`{"a":1e` + "99999999999999999999" + `}`:                              false,
		`{"a":1e-` + "131072" + `}`:                                           false,
		`{"a":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`: true,
	} {
		_, err := attributes.Parse(text)
		if fits := err == nil; fits != valid {
			t.Errorf("%.20s…: %v", text, err)
		}
		if valid {
			f.Exec(t, `UPDATE keywicket.workspaces SET attributes = $1`, text)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		" \n":                                "",
		` {"a": 1} `:                         "",
		`[]`:                                 "one JSON object",
		`null`:                               "one JSON object",
		`"{}"`:                               "one JSON object",
		`plan=pro`:                           "one JSON object, such as '{\"plan\":\"pro\"}'",
		`{"a":}`:                             "one JSON object",
		`{"a":1}{}`:                          "one JSON object",
		`{"a":01}`:                           "one JSON object",
		`{"a":NaN}`:                          "one JSON object",
		"{\"a\":\"\xff\"}":                   "one JSON object",
		"\u00a0{}":                           "one JSON object",
		`{"a":1,"a":1}`:                      "occurs twice",
		`{"a":1,"\u0061":1}`:                 "occurs twice",
		`{"b":[{"a":1,"a":1}]}`:              "occurs twice",
		`{"a":"\u0000"}`:                     `\u0000`,
		`{"\u0000":1}`:                       `\u0000`,
		`{"a":["\ud83d"]}`:                   "half of a character",
		`{"a":"\udE00\ud83d"}`:               "half of a character",
		`{"a":` + strings.Repeat("[", 20000): "one JSON object",
		`{"a":` + strings.Repeat(`{"a":`, 3000) + `1` + strings.Repeat("}", 3001): "4096 bytes",
		strings.Repeat(" ", 9) + `{"a": "` + strings.Repeat("a", 70000) + `"}`:    "4096 bytes",
	} {
		a, err := attributes.Parse(text)
		switch {
		case want == "" && (err != nil || string(a) != strings.TrimSpace(text)):
			t.Errorf("%.30s: %q, %v", text, a, err)
		case want != "" && (err == nil || a != "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%.30s: %q, %v, not %s", text, a, err, want)
		}
	}
}

// FuzzParse checks that every text is either refused, or is an object that other parsers read identically.
func FuzzParse(f *testing.F) {
	for _, text := range []string{``, `{}`, `{"a":[1e5,-0.5e-3,"\u00e9\n",{"b":null}]}`, `{"a":1,"a":2}`, `{"a":"\ud800"}`, `{"a":1e999999999999}`, `[[[`, "{}\v"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := attributes.Parse(text)
		if err != nil {
			return
		}
		object, err := strictjson.Object([]byte(a.JSON()))
		if err != nil {
			t.Fatalf("%q was accepted: %v", text, err)
		}
		var again map[string]json.RawMessage
		if err := json.Unmarshal([]byte(a.JSON()), &again); err != nil || len(again) != len(object) {
			t.Fatalf("%q was accepted: %v", text, err)
		}
	})
}
