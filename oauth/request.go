package oauth

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/internal/strictjson"
)

// maxBody is the maximum size of a request's body in bytes.
const maxBody = 16 << 10

// parameters are a request's parameters by name.
type parameters map[string]parameter

// parameter has a value, or a fault if the value cannot be used. A parameter without a value counts as absent. An endpoint refuses
// a fault only in a parameter that it reads, because it must ignore all others (RFC 6749, section 3.2).
type parameter struct{ value, fault string }

// readParameters reads the parameters of the body. The body is a form, as RFC 6749 requires, or a JSON object of strings, as
// Velocity's API documentation shows.
func readParameters(r *http.Request) (parameters, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, invalidRequest("the body must be application/x-www-form-urlencoded or application/json")
	}
	body, err := io.ReadAll(r.Body)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return nil, invalidRequest("the body is too long")
	}
	if err != nil {
		return nil, invalidRequest("the body could not be read")
	}
	switch mediaType {
	case "application/x-www-form-urlencoded":
		return formParameters(string(body))
	case "application/json":
		return jsonParameters(body)
	}
	return nil, invalidRequest("the body must be application/x-www-form-urlencoded or application/json")
}

func formParameters(body string) (parameters, error) {
	values, err := url.ParseQuery(escapeSemicolons(body))
	if err != nil {
		return nil, invalidRequest("the body is not a valid form")
	}
	p := make(parameters, len(values))
	for name, list := range values {
		p[name] = newParameter(list...)
	}
	return p, nil
}

// escapeSemicolons returns the form or query with "%3B" instead of ";". A raw ";" is an ordinary character there (WHATWG URL,
// section 5.1; RFC 6749, appendix B), but package net/url returns an error for it.
func escapeSemicolons(form string) string { return strings.ReplaceAll(form, ";", "%3B") }

// withSemicolons returns a handler that accepts a raw ";" in a query. In contrast, http.AllowQuerySemicolons ends the value there.
func withSemicolons(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, ";") {
			r = r.Clone(r.Context())
			r.URL.RawQuery = escapeSemicolons(r.URL.RawQuery)
		}
		h(w, r)
	}
}

func jsonParameters(body []byte) (parameters, error) {
	object, err := strictjson.Object(body)
	if err != nil {
		return nil, invalidRequest("the body is not a JSON object, or a name in it occurs twice")
	}
	p := make(parameters, len(object))
	for name, raw := range object {
		var value *string
		if err := json.Unmarshal(raw, &value); err != nil {
			p[name] = parameter{fault: "is not a string"}
		} else if value != nil {
			p[name] = newParameter(*value)
		}
	}
	return p, nil
}

func newParameter(values ...string) parameter {
	switch value := values[0]; {
	case len(values) > 1:
		return parameter{fault: "occurs twice"}
	case !utf8.ValidString(value):
		return parameter{fault: "is not UTF-8"}
	case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return parameter{fault: "has control characters"}
	default:
		return parameter{value: value}
	}
}

// optional returns the parameter with the name, or an empty string if the parameter is absent.
func (p parameters) optional(name string) (string, error) {
	if fault := p[name].fault; fault != "" {
		return "", invalidRequest(name + " " + fault)
	}
	return p[name].value, nil
}

// required returns the parameter with the name, or an error if the parameter is absent.
func (p parameters) required(name string) (string, error) {
	value, err := p.optional(name)
	if err == nil && value == "" {
		err = invalidRequest(name + " is missing")
	}
	return value, err
}
