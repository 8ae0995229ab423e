package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/api"
	"github.com/keywicket/keywicket/policies/route"
)

// Each route of the handler is in the document, and the other way round.
func TestDocumentHasTheRoutesOfTheHandler(t *testing.T) {
	documented := map[string][]string{}
	for path, item := range document().Paths.Map() {
		documented[path] = slices.Sorted(maps.Keys(item.Operations()))
	}
	if want := []string{http.MethodGet}; !slices.Equal(documented["/openapi.json"], want) {
		t.Errorf("the document itself has %q, not %q", documented["/openapi.json"], want)
	}
	delete(documented, "/openapi.json") // needs no caller, so it is not an operation
	handled := api.Routes()
	for path := range handled {
		slices.Sort(handled[path])
	}
	if !maps.EqualFunc(documented, handled, slices.Equal) {
		t.Errorf("documented: %v\nhandled: %v", documented, handled)
	}
}

// Each operation has a row in the table of Velocity. The row of the document is the only public one.
func TestOperationsHaveRows(t *testing.T) {
	s := newServer(t)
	rows := s.apis["velocity"].Rules.Table
	for path, item := range document().Paths.Map() {
		pattern, err := route.Parse(api.Path + path)
		if err != nil {
			t.Fatal(err)
		}
		for method, operation := range item.Operations() {
			i, ok := rows.Index().Find(method, pattern.Sample())
			isPublic := operation.Security != nil && len(*operation.Security) == 0
			if !ok || rows.Routes[i].Public != isPublic {
				t.Errorf("%s %s: found a row: %v", method, path, ok)
			}
		}
	}
	if authz.ConsolePath != api.Path+"/" {
		t.Errorf("sessions are accepted below %s", authz.ConsolePath)
	}
}

// The decoder of a body knows exactly the fields that the document describes.
func TestDocumentHasTheFieldsOfTheBodies(t *testing.T) {
	inDocument := map[string]bool{}
	for _, item := range document().Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.RequestBody != nil {
				schema := operation.RequestBody.Value.Content["application/json"].Schema
				inDocument[schema.Ref] = true
			}
		}
	}
	for name, body := range api.RequestBodies {
		schema := document().Components.Schemas[name]
		if !inDocument["#/components/schemas/"+name] || schema == nil {
			t.Errorf("no operation has the body %s", name)
			continue
		}
		decoded := map[string]bool{}
		for i := range reflect.TypeOf(body).NumField() {
			decoded[reflect.TypeOf(body).Field(i).Tag.Get("json")] = true
		}
		documented := slices.Sorted(maps.Keys(schema.Value.Properties))
		if got := slices.Sorted(maps.Keys(decoded)); !slices.Equal(got, documented) {
			t.Errorf("%s: documented %q, decoded %q", name, documented, got)
		}
	}
	if len(inDocument) != len(api.RequestBodies) {
		t.Errorf("the bodies of the document are %v", inDocument)
	}
}

// The served document is the checked-in document. It needs no caller.
func TestDocumentIsServed(t *testing.T) {
	s := newServer(t)
	got := s.send(t, nil, "GET", "/openapi.json", nil)
	if got.Code != http.StatusOK || got.Body.String() != string(api.Document) || !json.Valid(api.Document) {
		t.Errorf("got %d, %d bytes", got.Code, got.Body.Len())
	}
}

// The validator of these tests must find an undocumented response.
func TestUndocumentedResponsesAreFound(t *testing.T) {
	const good = `{"workspaces": [{"id": "1", "slug": "a", "name": "A", "role": "owner", "created_at": "2026-01-01T00:00:00Z"}]}`
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, api.Path+"/workspaces", nil)
	for body, want := range map[string]bool{
		good:                                   true,
		`{}`:                                   false,
		`{"workspaces": [{"id": 1}]}`:          false,
		`{"workspaces": null}`:                 false,
		`{"workspaces": [], "more": true}`:     false,
		good[:len(good)-3] + `, "plan": 1}]}`:  false,
		good[:len(good)-25] + `yesterday"}]} `: false,
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.WriteString(body)
		if err := validate(r, w); (err == nil) != want {
			t.Errorf("%s: %v", body, err)
		}
	}
	for change, alter := range map[string]func(*httptest.ResponseRecorder){
		"another status":  func(w *httptest.ResponseRecorder) { w.Code = http.StatusTeapot },
		"another type":    func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Type", "text/html") },
		"no header":       func(w *httptest.ResponseRecorder) { w.Header().Del("Cache-Control") },
		"another caching": func(w *httptest.ResponseRecorder) { w.Header().Set("Cache-Control", "public") },
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.WriteString(good)
		if alter(w); validate(r, w) == nil {
			t.Errorf("%s is not found", change)
		}
	}
}

// undocumented returns the fields of a response that the schema does not have.
func undocumented(schema *openapi3.SchemaRef, value any) (names []string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			names = append(names, undocumented(schema.Value.Items, item)...)
		}
	case map[string]any:
		properties := maps.Clone(schema.Value.Properties)
		for _, part := range schema.Value.AllOf {
			if properties == nil {
				properties = openapi3.Schemas{}
			}
			maps.Copy(properties, part.Value.Properties)
		}
		if len(properties) == 0 { // any object
			return nil
		}
		for name, field := range v {
			if property, ok := properties[name]; ok {
				names = append(names, undocumented(property, field)...)
			} else {
				names = append(names, name)
			}
		}
	}
	return names
}
