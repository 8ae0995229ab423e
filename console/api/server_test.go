package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/api"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/storetest"
)

// server is the management API of both products, with a database of its own and the privileges of the role keywicket_console.
type server struct {
	*storetest.Fixture
	handler http.Handler
	apis    map[string]settings.API
	log     *storetest.Log
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{Fixture: storetest.NewFixture(t), apis: map[string]settings.API{}, log: &storetest.Log{}}
	store := storetest.Must(console.Open(storetest.WithOption(s.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = store.Close() })
	cfg := storetest.Must(config.Load("", nil, nil))
	tables := storetest.Must(cfg.Tables())
	for name, a := range cfg.APIs {
		s.apis[name] = settings.API{
			Name: name, Rules: issuance.Rules{Table: tables[name], Limits: a.TokenLimits}, Formats: a.OperatorFormats(), Sessions: a.Session,
			HasApps: name == "velocity",
		}
	}
	s.handler = api.New(s.apis, settings.New(store), store, slog.New(slog.NewJSONHandler(s.log, nil))).Handler()
	return s
}

// caller are the headers in which the sidecar names a caller.
type caller map[string]string

func (c caller) with(name, value string) caller {
	changed := caller{name: value}
	for n, v := range c {
		if n != name {
			changed[n] = v
		}
	}
	return changed
}

// session is the session of the user ada in Velocity, in the workspace acme, where ada is an admin.
func (s *server) session() caller {
	return caller{
		"Api": "velocity", "Kind": "session", "Subject": s.Ada.ID, "User-Id": s.Ada.ID, "Workspace-Id": s.Acme.ID, "Workspace-Slug": s.Acme.Slug,
		"Scopes": "workspace:admin admin admin:all", "Environment": "live", "Decision-Id": "decision-1",
	}
}

// response is a response of the API.
type response struct {
	*httptest.ResponseRecorder
	t *testing.T
}

// send sends a request as the caller, and checks the response against the document. The parameter `body` is a text, or a value to encode as JSON; nil: no body.
func (s *server) send(t *testing.T, c caller, method, target string, body any, header ...string) response {
	t.Helper()
	var content io.Reader
	if text, ok := body.(string); ok {
		content = strings.NewReader(text)
	} else if body != nil {
		content = bytes.NewReader(storetest.Must(json.Marshal(body)))
	}
	r := httptest.NewRequestWithContext(t.Context(), method, api.Path+target, content)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, value := range c {
		r.Header.Set("X-Keywicket-"+name, value)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	w := response{httptest.NewRecorder(), t}
	s.handler.ServeHTTP(w, r)
	if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s %s: the headers are %v", method, target, w.Header())
	}
	if err := validate(r, w.ResponseRecorder); err != nil {
		t.Errorf("%s %s: %d %s is not as documented: %v", method, target, w.Code, w.Body, err)
	}
	return w
}

// field returns a field of the response's body. The path has dots between names.
func (w response) field(path string) any {
	w.t.Helper()
	var value any
	if err := json.Unmarshal(w.Body.Bytes(), &value); err != nil {
		w.t.Fatalf("%s: %v", w.Body, err)
	}
	for name := range strings.SplitSeq(path, ".") {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

func (w response) text(path string) string {
	w.t.Helper()
	text, _ := w.field(path).(string)
	return text
}

// expect fails the test if the response has another status, or another error code, reason or field.
func (w response) expect(status int, code, reason, field string) {
	w.t.Helper()
	if w.Code != status || w.text("error.code") != code || w.text("error.reason") != reason || w.text("error.field") != field {
		w.t.Errorf("got %d %s; want %d %s %s %s", w.Code, w.Body, status, code, reason, field)
	}
	if message := w.text("error.message"); code != "" && (!regexp.MustCompile(`^["A-Z].*\.$`).MatchString(message) || w.text("error.decision_id") != "decision-1") {
		w.t.Errorf("got %s", w.Body)
	}
}

// documentRouter finds the operation of a request in the document.
var documentRouter = sync.OnceValue(func() routers.Router {
	return storetest.Must(gorillamux.NewRouter(document()))
})

// document is the parsed and validated document.
var document = sync.OnceValue(func() *openapi3.T {
	loader := openapi3.NewLoader()
	d := storetest.Must(loader.LoadFromData(api.Document))
	if err := d.Validate(loader.Context); err != nil {
		panic(err)
	}
	return d
})

// validate returns an error if the document does not describe the response. A path or method that the document does not have must
// get a 404 or a 405.
func validate(r *http.Request, w *httptest.ResponseRecorder) error {
	route, parameters, err := documentRouter().FindRoute(r)
	if err != nil {
		if w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed {
			err = document().Components.Schemas["Error"].Value.VisitJSON(parse(w.Body.Bytes()), openapi3.EnableJSONSchema2020())
		}
		return err
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: route, PathParams: parameters},
		Status:                 w.Code, Header: w.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(r.Context(), input.SetBodyBytes(w.Body.Bytes())); err != nil {
		return err
	}
	schema := route.Operation.Responses.Status(w.Code).Value.Content["application/json"].Schema
	if names := undocumented(schema, parse(w.Body.Bytes())); len(names) > 0 {
		return fmt.Errorf("undocumented fields %q", names)
	}
	return nil
}

func parse(text []byte) (value any) {
	if err := json.Unmarshal(text, &value); err != nil {
		return err.Error()
	}
	return value
}

// secretOf returns the secret of a created token.
func (w response) secretOf() authz.Secret { return authz.Secret(w.text("token")) }
