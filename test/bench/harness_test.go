package bench

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/route"
	"github.com/keywicket/keywicket/policies/table"
)

// These tests check the harness itself.

// A generated check and the check that Envoy sent differ only in the token and the ID.
func TestGeneratedChecksEqualEnvoysChecks(t *testing.T) {
	f := captureChecks(t, []endpoint{{"GET", "/api/issues/{id}"}}, false)[0]
	read := func(text []byte) *authv3.AttributeContext_HttpRequest {
		var check authv3.CheckRequest
		if err := proto.Unmarshal(text, &check); err != nil {
			t.Fatal(err)
		}
		if api := check.GetAttributes().GetContextExtensions()["api"]; api != "velocity" {
			t.Errorf("the check is for the API %q", api)
		}
		return check.GetAttributes().GetRequest().GetHttp()
	}
	sent := read(f.Text)
	if got := slices.Sorted(maps.Keys(sent.GetHeaders())); len(got) > 0 || len(sent.GetHeaderMap().GetHeaders()) != 2 {
		t.Errorf("Envoy sends headers that deploy/envoy does not allow: %v", sent)
	}
	paths := make(map[string]bool)
	for n := range int64(3) {
		generated := read(f.fill(nil, []byte(key(n))))
		if got := string(generated.GetHeaderMap().GetHeaders()[0].GetRawValue()); got != "Bearer "+key(n) {
			t.Errorf("the credential is %q", got)
		}
		paths[generated.GetPath()] = true
		if len(generated.GetPath()) != len("/api/issues/")+len(idPlaceholder) || strings.Count(generated.GetPath(), "-") != 4 {
			t.Errorf("the path is %q", generated.GetPath())
		}
		generated.Path, generated.HeaderMap = sent.GetPath(), sent.GetHeaderMap()
		if !proto.Equal(generated, sent) {
			t.Errorf("the check differs in more than the token and the id: %v", generated)
		}
	}
	if len(paths) != 3 {
		t.Errorf("paths repeat: %v", paths)
	}
}

func TestStatusOfAnAnswer(t *testing.T) {
	denied := func(status int32) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7, Message: "no"}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{Body: "{}", Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)}},
		}}
	}
	for _, c := range []struct {
		answer *authv3.CheckResponse
		want   int
	}{
		{&authv3.CheckResponse{Status: &rpcstatus.Status{}}, 200},
		{&authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			HeadersToRemove: []string{"a"},
		}}}, 200},
		{denied(401), 401},
		{denied(403), 403},
	} {
		text, err := proto.Marshal(c.answer)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := statusOf(text); got != c.want || err != nil {
			t.Errorf("%v: got %d %v", c.answer, got, err)
		}
	}
	for _, bad := range []string{"", "\x0a", "\x12\x00", "\xff\xff"} { // an answer without a status is an error
		if got, err := statusOf([]byte(bad)); err == nil {
			t.Errorf("%q: got %d", bad, got)
		}
	}
}

func TestAnswersFromEnvoyAreRead(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: today\r\n\r\nok" +
		"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
	if status, last, err := readAnswer(r); status != 200 || last || err != nil {
		t.Errorf("got %d %t %v", status, last, err)
	}
	if status, last, err := readAnswer(r); status != 503 || !last || err != nil {
		t.Errorf("got %d %t %v", status, last, err)
	}
	if _, _, err := readAnswer(r); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// The client and the no-op server run as in a measurement, with a closed loop and with an open loop.
func TestLoad(t *testing.T) {
	w := &setup{}
	w.client = startClient(t)
	s := w.noop(t, "", "")
	text, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{ContextExtensions: map[string]string{"t": tokenPlaceholder}}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := newTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	w.client.storePlan(t, plan{Name: "p", Templates: []requestTemplate{f}, Entries: []planEntry{{1, 0}, {2, 0}}})
	before := s.cpu(t)
	if r := w.client.run(t, load{Plan: "p", Address: s.address, Callers: 4, Checks: 100, Want: 200}); r.Checks != 100 || r.Seconds <= 0 {
		t.Errorf("closed loop of 100 checks: %+v", r)
	}
	if used := s.cpu(t) - before; used <= 0 {
		t.Errorf("100 checks used %v of the server's CPU", used)
	}
	const rate, length = 200, 200 * time.Millisecond
	r := w.client.run(t, load{Plan: "p", Address: s.address, Callers: 4, For: length, Rate: rate, Want: 200, Details: true})
	if r.Checks != 40 || r.Seconds < 0.15 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("open loop of 200 checks a second for 0.2 s: %+v", r)
	}
	if r := w.client.do(t, command{Run: &load{Plan: "p", Address: s.address, Callers: 1, Checks: 3, Want: 403}}); r.Wrong["200"] != 3 {
		t.Errorf("three answers other than Want were expected: %+v", r)
	}
}

// A generated table contains every kind of route in routeTemplates, and each request matches its own route.
func TestGeneratedRoutes(t *testing.T) {
	dir, endpoints := generatePolicies(t, 20)
	files, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := table.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	rows := tables["velocity"].Routes
	index := route.Index{HeadWithGet: true}
	for i, r := range rows {
		method, path, _ := strings.Cut(r.Name(), " ")
		pattern, err := route.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := index.Add(method, pattern, i); !ok {
			t.Fatal("the table contains a row twice: ", r.Name())
		}
	}
	if len(rows) != len(endpoints) {
		t.Fatalf("%d rows for %d requests", len(rows), len(endpoints))
	}
	for i, e := range endpoints {
		path, err := url.PathUnescape(strings.ReplaceAll(e.Path, "{id}", idPlaceholder))
		if err != nil {
			t.Fatal(err)
		}
		if row, ok := index.Find(e.Method, path); !ok || row != i {
			t.Errorf("%s %s matches %s", e.Method, path, rows[row].Name())
		}
	}
}
