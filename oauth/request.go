package oauth

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/keywicket/keywicket/internal/strictjson"
)

// maxBody is the maximum size of a request's body in bytes.
const maxBody = 16 << 10

// parameters are a request's parameters by name. A parameter without a value counts as absent (RFC 6749, section 3.2), so no
// value is empty.
type parameters map[string]string

// readParameters reads the parameters of the body. The body is a form, as RFC 6749 requires, or a JSON object of strings, as
// Velocity's API documentation shows. readParameters ignores unknown parameters, and returns an error for repeated parameters
// (section 3.2).
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
	values, err := url.ParseQuery(body)
	if err != nil {
		return nil, invalidRequest("the body is not a valid form")
	}
	p := make(parameters, len(values))
	for name, list := range values {
		if len(list) > 1 {
			return nil, invalidRequest("a parameter occurs twice")
		}
		if err := p.set(name, list[0]); err != nil {
			return nil, err
		}
	}
	return p, nil
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
			return nil, invalidRequest("a parameter is not a string")
		}
		if value != nil {
			if err := p.set(name, *value); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func (p parameters) set(name, value string) error {
	if !utf8.ValidString(value) {
		return invalidRequest("a parameter is not UTF-8")
	}
	for _, c := range value {
		if c < ' ' || c == 0x7f {
			return invalidRequest("a parameter has control characters")
		}
	}
	if value != "" {
		p[name] = value
	}
	return nil
}

// required returns the parameter with the name, or an error if the parameter is absent.
func (p parameters) required(name string) (string, error) {
	if value, ok := p[name]; ok {
		return value, nil
	}
	return "", invalidRequest(name + " is missing")
}
