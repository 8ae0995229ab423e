package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/console/api"
)

// A body that is accepted is a JSON object. It has only fields of the document, and encoding/json reads the same values from it.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		`{"name": "CI", "scopes": ["issues:read"], "expires_at": "2030-01-01T00:00:00Z", "prefix": "vel_"}`, `{"name": "a", "name": "b"}`,
		`{"NAME": "a"}`, `{"name": null}`, `{"prefix": null}`, `{}`, `[]`, `{} {}`, `{"name": "\ud800"}`, `{"scopes": [null]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		got, err := api.ReadNewToken(r)
		if err != nil {
			return
		}
		known := document().Components.Schemas["NewToken"].Value.Properties
		var object map[string]any
		if err := json.Unmarshal([]byte(body), &object); err != nil {
			t.Fatalf("accepted %q: %v", body, err)
		}
		for name := range object {
			if known[name] == nil {
				t.Errorf("accepted the field %q", name)
			}
		}
		want := reflect.New(reflect.TypeOf(got))
		if err := json.Unmarshal([]byte(body), want.Interface()); err != nil || !reflect.DeepEqual(got, want.Elem().Interface()) {
			t.Errorf("%q: %+v, %v, not %+v", body, got, err, want.Elem())
		}
	})
}

// Every query is refused, or has one value for each known parameter.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"q=a&limit=1", "limit=1&limit=2", "cursor=%00", "a=b", "q=%FF", "q=a;limit=1", "%", "q"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.URL.RawQuery = query
		values, err := api.ReadQuery(r, "q", "limit", "cursor")
		if err != nil {
			return
		}
		if len(values) != len(r.URL.Query()) {
			t.Errorf("%q: %q", query, values)
		}
		for name, value := range values {
			if list := r.URL.Query()[name]; len(list) != 1 || list[0] != value || value == "" || strings.Contains(value, "\x00") {
				t.Errorf("%q: %s is %q", query, name, list)
			}
		}
	})
}
