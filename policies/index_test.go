package policies_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// The index compares decoded paths, so the escapes that a table uses do not matter.
func TestRowsAreComparedDecoded(t *testing.T) {
	dir := policytest.Copy(t)
	policytest.Write(t, dir, "apis/zoo/data.yaml", `
scopes: {workspace: {a: A}}
overrides: {}
roles: {}
parameters: {may_hold: ["#", "%", "?", ";"], raw_semicolon: true}
routes:
  - {method: GET, path: "/v1/charges%3Asearch", scopes: [a]}
  - {method: GET, path: "/v1/{charge}", scopes: [a]}
  - {method: GET, path: "/caf%c3%A9/{id}/a%20b", scopes: [a]}
  - {method: GET, path: "/%73tatus/x+y", scopes: [a]}
  - {method: GET, path: "/a$&'(),=@%7Cb", scopes: [a]}
`)
	engine := policytest.Load(t, dir)
	parameters := engine.Needs("zoo").Parameters
	for path, want := range map[string]string{
		"/v1/charges:search":           "/v1/charges%3Asearch",
		"/v1/charges%3Asearch":         "/v1/charges%3Asearch",
		"/v1/%63harges%3asearch":       "/v1/charges%3Asearch",
		"/%761/charges:search":         "/v1/charges%3Asearch",
		"/v1/charges:search%20":        "/v1/{charge}",
		"/v1/c%23":                     "/v1/{charge}",
		"/v1/100%25":                   "/v1/{charge}",
		"/v1/what%3F":                  "/v1/{charge}",
		"/v1/a;b":                      "/v1/{charge}",
		"/v1/a%3Bb":                    "/v1/{charge}",
		"/caf%C3%A9/7/a%20b":           "/caf%c3%A9/{id}/a%20b",
		"/status/x+y":                  "/%73tatus/x+y",
		"/status/x%2By":                "/%73tatus/x+y",
		"/status/x%20y":                "",
		"/a$&'(),=@%7cb":               "/a$&'(),=@%7Cb",
		"/a%24%26%27%28%29,%3D%40%7Cb": "/a$&'(),=@%7Cb",
		"/status":                      "",
		"/v1/a*b":                      "/v1/{charge}",
		"/v1/%7Bcharge%7D":             "/v1/{charge}",
		"/v1/%5B%5D%21%22":             "/v1/{charge}",
	} {
		in := policytest.Input()
		in.API, in.Principal.API, in.Principal.Scopes = "zoo", "zoo", []string{"a"}
		segments, err := target.Segments(path, parameters)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		in.Path = target.JoinSegments(segments)
		d, err := engine.Decide(t.Context(), in)
		if err != nil || d.Allow != (want != "") || strings.TrimPrefix(d.Route, "GET ") != want {
			t.Errorf("%s: %+v, %v, not %q", path, d, err, want)
		}
	}
}
