package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keywicket/keywicket/internal/strictjson"
)

// maxBody is the maximum size of a request's body in bytes.
const maxBody = 64 << 10

var (
	idForm             = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$`)
	idempotencyKeyForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,255}$`)
)

// pathID returns the id in the path. A text that cannot be an id is an id that does not exist.
func pathID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !idForm.MatchString(id) {
		return "", errNoID
	}
	return id, nil
}

// idempotencyKey returns the value of the header Idempotency-Key; empty: the request has none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || !idempotencyKeyForm.MatchString(values[0]):
		return "", badRequest("invalid_header", "Idempotency-Key", "Send one Idempotency-Key of 1 to 255 characters: letters, digits, dots, underscores, tildes and dashes.")
	}
	return values[0], nil
}

// query are the parameters of a request's query by name.
type query map[string]string

// readQuery returns the parameters of the query. An unknown or repeated parameter is an error. So a misspelled filter cannot select
// everything.
func readQuery(r *http.Request, known ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("invalid_query", "", "The query is not well-formed.")
	}
	q := query{}
	for name, list := range values {
		value := list[0]
		switch {
		case !slices.Contains(known, name):
			return nil, badRequest("unknown_parameter", "", "The query may have only these parameters: "+strings.Join(known, ", ")+".")
		case len(list) > 1:
			return nil, badRequest("invalid_query", name, "The parameter "+name+" occurs twice.")
		case value == "" || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
			return nil, badRequest("invalid_query", name, "The parameter "+name+" is empty or has control characters.")
		}
		q[name] = value
	}
	return q, nil
}

// number returns the value of a parameter, a whole number from 1 to the maximum; without a value, it returns the default.
func (q query) number(name string, byDefault, maximum int) (int, error) {
	text, ok := q[name]
	if !ok {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maximum || text != strconv.Itoa(n) {
		return 0, badRequest("invalid_query", name, "The parameter "+name+" must be a whole number from 1 to "+strconv.Itoa(maximum)+".")
	}
	return n, nil
}

// readBody decodes the JSON object in the request's body into the struct to which `body` points. Unknown and repeated fields are
// errors. The names are case-sensitive. Only a field of a pointer type may be null.
func readBody(r *http.Request, body any) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return &refusal{
			status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE", Reason: "content_type",
			Message: "Send the body as application/json.",
		}
	}
	text, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &refusal{
			status: http.StatusRequestEntityTooLarge, Code: "REQUEST_TOO_LARGE", Reason: "body_too_large",
			Message: "The body is larger than 64 KiB.",
		}
	}
	if err != nil {
		return badRequest("invalid_body", "", "The body could not be read.")
	}
	object, err := strictjson.Object(text)
	if err != nil {
		return badRequest("invalid_body", "", "The body must be one JSON object, and no field may occur twice.")
	}
	target := reflect.ValueOf(body).Elem()
	fields := map[string]reflect.Value{}
	for i := range target.NumField() {
		fields[target.Type().Field(i).Tag.Get("json")] = target.Field(i)
	}
	for name, value := range object {
		field, ok := fields[name]
		if !ok {
			return badRequest("unknown_field", "", "The body has a field that this operation does not have.")
		}
		if string(value) == "null" && field.Kind() != reflect.Pointer || json.Unmarshal(value, field.Addr().Interface()) != nil {
			return badRequest("invalid_field", name, "The field "+name+" does not have the type that the document describes.")
		}
	}
	return nil
}

// readOptionalBody is like readBody, but the request may have no body.
func readOptionalBody(r *http.Request, body any) error {
	if r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return nil
	}
	return readBody(r, body)
}
