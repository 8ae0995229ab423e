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

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/internal/shell"
)

// Tour sends every request, prints the expected and the actual responses, and runs the OAuth flow of the sample APIs. With the sample
// APIs, it returns an error if an actual response is not the expected one. With a user's own policies, other rules than the table may
// decide, so it returns an error only if a request got no decision.
func (d *Demo) Tour(ctx context.Context, w io.Writer) error {
	if d.own != nil {
		fmt.Fprintln(w, ownNote)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tAPI\tREQUEST\tKEY\tWORKSPACE\tEXPECTED\tSEEN\t")
	sent, differ, undecided := 0, 0, 0
	line := func(api, request, key, workspace, want, seen, why string) {
		sent++
		mark := "ok"
		if seen != want {
			mark = "DIFFERS"
			differ++
		}
		switch {
		case strings.HasPrefix(seen, "5"):
			undecided++
		case seen != want && d.own != nil:
			mark = "rule" // another rule than the table decided
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, api, request, key, workspace, want, seen, why)
	}
	for _, r := range d.requests {
		seen, err := d.send(ctx, r, d.secrets[r.Key].Reveal())
		if err != nil {
			return err
		}
		line(r.API, r.Line, r.Key, r.Workspace, r.Want, seen, r.Why)
	}
	if d.own != nil {
		err := table.Flush()
		if err == nil && undecided > 0 {
			err = fmt.Errorf("%d of %d requests got no decision: run again with --logs, and read the cause in the logs", undecided, sent)
		}
		switch {
		case err != nil:
		case differ == 0:
			fmt.Fprintf(w, "%d requests, every answer as your tables say\n", sent)
		default:
			fmt.Fprintf(w, "%d requests, %d answers not as your tables say: other rules decided\n", sent, differ)
		}
		return err
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

// send sends the request and returns the response in the form of [example.Request.Want].
func (d *Demo) send(ctx context.Context, r example.Request, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	method, path, _ := strings.Cut(r.Line, " ")
	request, err := http.NewRequestWithContext(ctx, method, d.URLs[r.API]+path, nil)
	if err != nil {
		return "", err
	}
	for _, h := range d.headers(r, token) {
		request.Header.Set(h[0], h[1])
	}
	request.Host = request.Header.Get("Host")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("%s: %w", r.Line, err)
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		Upstream string
		Error    struct{ Code, Reason string }
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil && method != http.MethodHead {
		return "", fmt.Errorf("%s: the answer is not JSON: %w", r.Line, err)
	}
	words := []string{fmt.Sprint(response.StatusCode), body.Upstream, body.Error.Code, body.Error.Reason}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " "), nil
}

func (d *Demo) headers(r example.Request, token string) [][2]string {
	var headers [][2]string
	if token != "" {
		headers = append(headers, [2]string{"Authorization", "Bearer " + token})
	}
	if r.Workspace != "" {
		headers = append(headers, [2]string{d.workspaceHeader(r.API), r.Workspace})
	}
	if host := d.own.Host(r.API); host != "" {
		headers = append(headers, [2]string{"Host", host})
	}
	return headers
}

func (d *Demo) workspaceHeader(api string) string {
	switch {
	case d.own != nil:
		return d.own.APIs[api].Workspace.Header
	case api == "velaflows":
		return "x-workspace-id"
	}
	return "X-Workspace-Slug"
}

// curl returns the request as the parts of a curl command line: curl with the address, and then each header.
func (d *Demo) curl(r example.Request) []string {
	method, path, _ := strings.Cut(r.Line, " ")
	command := "curl -i"
	switch method {
	case http.MethodGet:
	case http.MethodHead:
		command = "curl -I" // with -X HEAD, curl would wait for a body
	default:
		command += " -X " + shell.Quote(method)
	}
	parts := []string{command + " " + shell.Quote(d.URLs[r.API]+path)}
	for _, h := range d.headers(r, d.secrets[r.Key].Reveal()) {
		parts = append(parts, "-H "+shell.Quote(h[0]+": "+h[1]))
	}
	for _, k := range d.keys {
		if k.Name == r.Key && k.Variable != "" {
			parts[1] = strings.ReplaceAll(parts[1], d.secrets[k.Name].Reveal()+"'", "'$"+k.Variable)
		}
	}
	return parts
}
