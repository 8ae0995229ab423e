package envoy_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
)

// patterns are the routes of the policy tables, as regular expressions that match "METHOD path". The function patternsOf reads the
// tables without Rego.
type patterns struct{ public, others []*regexp.Regexp }

func patternsOf(t table.Table) patterns {
	var p patterns
	parameter := regexp.MustCompile(`\\\{[^/]*\\\}`)
	for _, r := range t.Routes {
		form := parameter.ReplaceAllString(regexp.QuoteMeta(r.Method+" "+r.Path), `[^/]+`)
		re := regexp.MustCompile(`\A` + form + `\z`)
		if r.Public {
			p.public = append(p.public, re)
		} else {
			p.others = append(p.others, re)
		}
	}
	return p
}

func matchesAny(patterns []*regexp.Regexp, line string) bool {
	for _, p := range patterns {
		if p.MatchString(line) {
			return true
		}
	}
	return false
}

// FuzzCheckRequest checks that every request, from Envoy or another client, leads to a response, and none to a panic. The status is
// OK if and only if the response has an OkResponse. A request is allowed only if its method and its decoded path match a route of
// the table. A route that is not public also needs the key that the directory contains. A denial has a status of 400 or more and a
// JSON body. No response contains the key.
func FuzzCheckRequest(f *testing.F) {
	engine, err := policies.Load(f.Context(), policies.Config{})
	if err != nil {
		f.Fatal(err)
	}
	routes := patternsOf(engine.Tables()["velaflows"])
	keyDigest := authz.Secret(key).Digest()
	directory := lookup(func(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
		if l.Digest != keyDigest {
			return authz.LookupResult{Denial: authz.ReasonUnknown}, nil
		}
		answer, err := found(ctx, l)
		answer.Principal.Scopes = []string{"admin:all"}
		return answer, err
	})
	a, err := authz.New(authz.Config{APIs: map[string]authz.API{"velaflows": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID, Required: true},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}},
	}}}, directory, engine)
	if err != nil {
		f.Fatal(err)
	}
	server := envoy.NewServer(envoy.Config{}, a, slog.New(slog.DiscardHandler))

	const workspace = "64f1a2b3c4d5e6f7a8b9c0d1"
	for _, path := range []string{
		"/api/v1/inbox/conversations", "/api/v1/contacts/7", "/api/v1/contacts/..", "/api/v1/contacts/%2e%2e", "/api/v1/contacts/a%2fb",
		"/api/v1//tags", "/api/v1/tags/", "/healthz", "/healthz?x=/../admin", "/healthz/../api/v1/tags", "/api/v1/tags;x", "", "*",
	} {
		f.Add("velaflows", "GET", path, "Bearer "+key, workspace, []byte(nil))
	}
	f.Add("", "GET", "/healthz", "", "", []byte(nil))
	f.Add("velaflows", "POST", "/api/v1/tags", "Bearer "+key+"\xff", strings.ToUpper(workspace), []byte(nil))
	validMessage, err := proto.Marshal(validRequest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("", "", "", "", "", validMessage)

	f.Fuzz(func(t *testing.T, api, method, path, authorization, workspaceID string, message []byte) {
		request := requestWithHeaders([2]string{"authorization", authorization}, [2]string{"x-workspace-id", workspaceID})
		http := request.GetAttributes().GetRequest().GetHttp()
		http.Method, http.Path = method, path
		request.Attributes.ContextExtensions = map[string]string{"api": api}
		readable := true
		if message != nil { // arbitrary bytes
			request = &authv3.CheckRequest{}
			readable = proto.Unmarshal(message, request) == nil
			http = request.GetAttributes().GetRequest().GetHttp()
		} else if message, err = proto.Marshal(request); err != nil {
			t.Skip("a string that no message can contain")
		}
		response := &authv3.CheckResponse{}
		if err := proto.Unmarshal(server.Bytes(t.Context(), message).Materialize(), response); err != nil || response.GetStatus() == nil {
			t.Fatalf("%v, %v", response, err)
		}
		if !readable && response.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Fatalf("a malformed message is answered with %v", response)
		}
		if strings.Contains(response.String(), key) {
			t.Fatalf("the key is in %v", response)
		}
		if allowed := response.GetOkResponse() != nil; allowed != (response.GetStatus().GetCode() == 0) ||
			allowed == (response.GetDeniedResponse() != nil) {
			t.Fatalf("neither an allow nor a denial: %v", response)
		}
		if denied := response.GetDeniedResponse(); denied != nil {
			var body struct {
				Error struct{ Code, Reason, Message string }
			}
			if err := json.Unmarshal([]byte(denied.GetBody()), &body); err != nil || denied.GetStatus().GetCode() < 400 ||
				body.Error.Code == "" || body.Error.Reason == "" || body.Error.Message == "" {
				t.Fatalf("%v: %v", err, denied)
			}
			return
		}
		pathOnly, _, _ := strings.Cut(http.GetPath(), "?")
		segments, err := target.Segments(pathOnly, target.Parameters{})
		line := http.GetMethod() + " " + target.JoinSegments(segments)
		public := matchesAny(routes.public, line)
		if err != nil || strings.Contains(http.GetHost(), ",") || !public && !matchesAny(routes.others, line) {
			t.Fatalf("%q is allowed", line)
		}
		if !public && !strings.Contains(request.String(), key) {
			t.Fatalf("%q is allowed to %v", line, request)
		}
	})
}
