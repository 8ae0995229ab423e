package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

// tourStep is one request of the tour, and the response that the API's document promises.
type tourStep struct {
	api       string
	request   string // method and path
	key       string // the key's name; empty: no credential
	workspace string // the value of the API's workspace header; empty: no header
	want      string // the expected response, for example "200 live" or "403 FORBIDDEN missing_scope"
	why       string
}

var tour = []tourStep{
	{"velaflows", "GET /api/v1/inbox/conversations", "dashboard", Acme, "200 live", "the document's first example"},
	{"velaflows", "GET /api/v1/inbox/conversations", "", Acme, "401 UNAUTHORIZED missing", "no token"},
	{"velaflows", "GET /api/v1/inbox/conversations", "expired", Acme, "401 UNAUTHORIZED expired", "an expired token"},
	{"velaflows", "GET /api/v1/inbox/conversations", "revoked", Acme, "401 UNAUTHORIZED revoked", "a revoked token"},
	{"velaflows", "GET /api/v1/inbox/conversations", "read-only", Acme, "401 UNAUTHORIZED unknown", "a key of the other API"},
	{"velaflows", "GET /api/v1/inbox/conversations", "dashboard", "64f1a2b3c4d5e6f7a8b9c0d2", "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "another workspace"},
	{"velaflows", "GET /api/v1/inbox/conversations", "dashboard", "", "403 WORKSPACE_ACCESS_DENIED workspace_required", "no workspace header"},
	{"velaflows", "GET /api/v1/inbox/conversations", "administrator", "64F1A2B3C4D5E6F7A8B9C0D1", "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "an id with capital letters"},
	{"velaflows", "GET /api/v1/inbox/conversations", "sandbox", Acme, "200 sandbox", "sk_test_ reaches the sandbox"},
	{"velaflows", "POST /api/v1/inbox/conversations/7/messages", "chatbot", Acme, "200 live", "a chatbot replies"},
	{"velaflows", "POST /api/v1/inbox/conversations/7/messages", "dashboard", Acme, "403 FORBIDDEN missing_scope", "the dashboard's key only reads"},
	{"velaflows", "DELETE /api/v1/crm/leads/7", "dashboard", Acme, "403 FORBIDDEN missing_scope", "a scope is missing"},
	{"velaflows", "DELETE /api/v1/crm/leads/7", "administrator", Acme, "200 live", "admin:all overrides every scope"},
	{"velaflows", "GET /api/v1/admin/audit", "administrator", Acme, "200 live", "admin:all allows administration"},
	{"velaflows", "GET /api/v1/secrets", "administrator", Acme, "403 FORBIDDEN no_route", "admin:all allows no unlisted route"},
	{"velaflows", "GET /healthz", "", "", "200 live", "a public route"},
	{"velocity", "GET /api/issues", "read-only", yourSlug, "200 live", "the document's first example"},
	{"velocity", "GET /api/issues", "read-only", "", "200 live", "a vel_ key belongs to one workspace"},
	{"velocity", "GET /api/issues", "read-only", targetSlug, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "a vel_ key in another workspace"},
	{"velocity", "POST /api/issues", "read-only", "", "403 FORBIDDEN missing_scope", "a read-only key cannot write"},
	{"velocity", "POST /api/issues", "read-write", "", "200 live", "a read-write key can write"},
	{"velocity", "PATCH /api/workspace", "read-write", "", "403 FORBIDDEN missing_scope", "a read-write key cannot administer"},
	{"velocity", "PATCH /api/workspace", "settings", "", "200 live", "a key with workspace:admin can"},
	{"velocity", "GET /api/user", "settings", "", "403 FORBIDDEN missing_scope", "a workspace key has no user"},
	{"velocity", "GET /api/user", "ada's", "", "200 live", "a personal key reads the profile"},
	{"velocity", "GET /api/workspaces", "ada's", "", "200 live", "a personal key lists workspaces"},
	{"velocity", "GET /api/issues", "ada's", "", "403 WORKSPACE_ACCESS_DENIED workspace_required", "a personal key must name the workspace of issues"},
	{"velocity", "POST /api/issues", "ada's", yourSlug, "200 live", "Ada is the owner"},
	{"velocity", "GET /api/issues", "ada's", targetSlug, "200 live", "Ada is a guest"},
	{"velocity", "POST /api/issues", "ada's", targetSlug, "403 FORBIDDEN missing_scope", "a guest may not write"},
	{"velocity", "POST /api/issues", "ada's admin", targetSlug, "403 FORBIDDEN missing_scope", "a guest may not write, even with admin"},
	{"velocity", "GET /api/issues", "ada's", acmeSlug, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "Ada is not a member"},
	{"velocity", "GET /api/user", "ada's session", "", "200 live", "a session of the web application"},
	{"velocity", "POST /api/issues", "ada's session", yourSlug, "200 live", "a session may do what Ada may do"},
	{"velocity", "POST /api/issues", "ada's session", targetSlug, "403 FORBIDDEN missing_scope", "a session may not write where Ada is a guest"},
	{"velocity", "GET /api/user", "ada's signed out", "", "401 UNAUTHORIZED revoked", "Ada has signed out"},
	{"velaflows", "GET /api/v1/inbox/conversations", "ada's session", Acme, "401 UNAUTHORIZED unknown", "a session of the other API"},
	{"velocity", "GET /healthz", "", "", "200 live", "a public route"},
}

// Tour sends every request of the tour, runs the OAuth flow, and prints the expected and the actual responses. It returns an error
// if an actual response is not the expected one.
func (d *Demo) Tour(ctx context.Context, w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tAPI\tREQUEST\tKEY\tWORKSPACE\tEXPECTED\tSEEN\t")
	sent, differ := 0, 0
	line := func(api, request, key, workspace, want, seen, why string) {
		sent++
		mark := "ok"
		if seen != want {
			mark = "DIFFERS"
			differ++
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, api, request, key, workspace, want, seen, why)
	}
	for _, t := range tour {
		seen, err := d.send(ctx, t, d.secrets[t.key].Reveal())
		if err != nil {
			return err
		}
		line(t.api, t.request, t.key, t.workspace, t.want, seen, t.why)
	}
	err := d.walkOAuth(ctx, func(request, who, workspace, want, seen, why string) {
		line("velocity", request, who, workspace, want, seen, why)
	})
	if err := errors.Join(table.Flush(), err); err != nil {
		return err
	}
	if differ > 0 {
		return fmt.Errorf("%d of %d answers differ", differ, sent)
	}
	fmt.Fprintf(w, "%d requests, every answer as expected\n", sent)
	return nil
}

// send sends the request and returns the response in the form of tourStep.want.
func (d *Demo) send(ctx context.Context, t tourStep, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	method, path, _ := strings.Cut(t.request, " ")
	request, err := http.NewRequestWithContext(ctx, method, d.base(t.api)+path, nil)
	if err != nil {
		return "", err
	}
	for _, h := range headers(t, token) {
		request.Header.Set(h[0], h[1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.request, err)
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		Upstream string
		Error    struct{ Code, Reason string }
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return "", fmt.Errorf("%s: the answer is not JSON: %w", t.request, err)
	}
	words := []string{fmt.Sprint(response.StatusCode), body.Upstream, body.Error.Code, body.Error.Reason}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " "), nil
}

func (d *Demo) base(api string) string {
	if api == "velaflows" {
		return d.VelaFlows
	}
	return d.Velocity
}

func headers(t tourStep, token string) [][2]string {
	var headers [][2]string
	if token != "" {
		headers = append(headers, [2]string{"Authorization", "Bearer " + token})
	}
	if t.workspace != "" {
		name := "X-Workspace-Slug"
		if t.api == "velaflows" {
			name = "x-workspace-id"
		}
		headers = append(headers, [2]string{name, t.workspace})
	}
	return headers
}

// curl returns the request as a curl command line.
func (d *Demo) curl(t tourStep) string {
	method, path, _ := strings.Cut(t.request, " ")
	line := "curl -i"
	if method != http.MethodGet {
		line += " -X " + method
	}
	line += " " + d.base(t.api) + path
	for _, h := range headers(t, d.secrets[t.key].Reveal()) {
		line += fmt.Sprintf(" -H '%s: %s'", h[0], h[1])
	}
	for _, k := range keys {
		if k.name == t.key && k.variable != "" {
			line = strings.ReplaceAll(line, d.secrets[k.name].Reveal()+"'", "'$"+k.variable)
		}
	}
	return line
}
