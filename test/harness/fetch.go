package harness

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
)

// Reply is an HTTP response whose body has been read.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	JSON   map[string]any // the body, if its type is application/json
}

// Text returns a member of the JSON body. It returns "" if the body has no such member, or if the member is not a string.
func (r Reply) Text(name string) string { s, _ := r.JSON[name].(string); return s }

// Fetch sends a request. The parameter `header` contains header names, each followed by its value. Fetch does not change
// the case of the names.
func Fetch(t testing.TB, client *http.Client, method, address, body string, header ...string) Reply {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header[header[i]] = append(q.Header[header[i]], header[i+1])
	}
	return do(t, client, q)
}

func do(t testing.TB, client *http.Client, q *http.Request) Reply {
	t.Helper()
	response, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	r := Reply{Status: response.StatusCode, Header: response.Header, Body: string(text)}
	if response.Header.Get("Content-Type") == "application/json" && q.Method != http.MethodHead {
		if err := json.Unmarshal(text, &r.JSON); err != nil {
			t.Fatalf("%s %s: %v in %s", q.Method, q.URL, err, text)
		}
	}
	return r
}

// Get sends a GET request. The parameter `header` is as in Fetch.
func Get(t testing.TB, client *http.Client, address string, header ...string) Reply {
	t.Helper()
	return Fetch(t, client, http.MethodGet, address, "", header...)
}

// Probe requests a path of the sidecar's own listener, such as /readyz or /metrics.
func Probe(t testing.TB, s *demo.Stack, path string) (status int, body string) {
	t.Helper()
	r := Get(t, http.DefaultClient, "http://"+s.Sidecar.Operations+path)
	return r.Status, r.Body
}
