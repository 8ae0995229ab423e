package answers

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/supabase"
)

// caseRun is the state of a running case.
type caseRun struct {
	file   caseFile
	client *harness.Client
	// names contains the values of ${name.field}: name → field → value. A key has the fields id, token, prefix and secret.
	// The field `secret` is the token without its visible prefix.
	names                   map[string]map[string]string
	checked, sent, commands int // numbers of requests in process, requests through Envoy, and commands
}

func (p *caseRun) run(t *testing.T, s scenario) {
	for name, k := range s.Keys {
		if k.Session {
			id := rand.Text()
			p.names[name] = map[string]string{"id": id, "token": deployment.Sessions.Token(k.User, supabase.Fields{"session_id": id})}
			continue
		}
		if k.OAuth {
			issued := deployment.Grant(t, k.User, k.Scopes, k.Granted...)
			p.names[name] = map[string]string{"id": issued.Grant, "token": issued.Access.Reveal()}
			continue
		}
		token, secret := k.create(t, name)
		p.names[name] = map[string]string{"id": token.ID, "token": secret, "prefix": token.Prefix}
	}
	for i, st := range s.Steps {
		var err error
		switch {
		case st.Request != nil:
			for _, r := range st.Request {
				if err = p.request(t, st, r); err != nil {
					err = fmt.Errorf("%s: %w", r, err)
					break
				}
			}
		case st.Keywicket != "":
			err = p.command(t, st)
		case st.Revoke != "":
			_, err = deployment.Registry.RevokeToken(t.Context(), p.field(t, st.Revoke, "id"))
			time.Sleep(harness.Staleness)
		case st.AwaitExpiry != "":
			deployment.AwaitExpiry(t, p.field(t, st.AwaitExpiry, "id"))
		case st.CheckStoredHash != "":
			err = p.checkStoredHash(t, st.CheckStoredHash)
		}
		if err != nil {
			t.Fatalf("step %d (%s): %v", i+1, s.Source, err)
		}
	}
}

// field returns the value of ${name.field}.
func (p *caseRun) field(t *testing.T, name, field string) string {
	t.Helper()
	object := p.names[name]
	if field == "secret" && strings.HasPrefix(object["token"], object["prefix"]) {
		return object["token"][len(object["prefix"]):]
	}
	value, ok := object[field]
	if !ok {
		t.Fatalf("%s.%s is not defined", name, field)
	}
	return value
}

var placeholderPattern = regexp.MustCompile(`\$\{(\w+)\.(\w+)\}`)

func (p *caseRun) expand(t *testing.T, text string) string {
	return placeholderPattern.ReplaceAllStringFunc(text, func(r string) string {
		m := placeholderPattern.FindStringSubmatch(r)
		return p.field(t, m[1], m[2])
	})
}

// request runs the request in process and then through Envoy, and requires the expected outcome both times.
func (p *caseRun) request(t *testing.T, st step, line string) error {
	q := harness.Request{API: p.file.API}
	q.Method, q.Path, _ = strings.Cut(line, " ")
	if st.Key != "" {
		q.Header = append(q.Header, [2]string{"Authorization", "Bearer " + p.field(t, st.Key, "token")})
	}
	if st.Workspace != nil {
		q.Header = append(q.Header, [2]string{product.WorkspaceHeaders[q.API], p.file.headerValue(*st.Workspace)})
	}
	for _, name := range slices.Sorted(maps.Keys(st.Headers)) {
		q.Header = append(q.Header, [2]string{name, p.expand(t, st.Headers[name])})
	}
	status, rest, _ := strings.Cut(st.Expect, " ")
	outcome, reached := rest, int64(0)
	if status == "200" {
		outcome, reached = "allow", 1
	}
	p.checked++
	if err := inProcess.Check(t, q).HasOutcome(outcome, st.RequiredScopes...); err != nil {
		return err
	}
	before := deployment.UpstreamRequests()
	a, _ := p.client.SendWithRetry(t, q)
	p.sent++
	if err := a.HasOutcome(outcome, st.RequiredScopes...); err != nil {
		return fmt.Errorf("through Envoy: %w", err)
	}
	switch got := deployment.UpstreamRequests() - before; {
	case strconv.Itoa(a.Status) != status:
		return fmt.Errorf("through Envoy: the status is %d, not %s", a.Status, status)
	case got != reached:
		return fmt.Errorf("%s, and %d requests reached an upstream", st.Expect, got)
	case outcome == "allow" && a.Echo.Upstream != rest:
		return fmt.Errorf("the request reached the upstream %q, not %q", a.Echo.Upstream, rest)
	}
	for name, want := range st.Seen {
		if got := strings.Join(a.Echo.Headers[name], ", "); got != p.expand(t, want) {
			return fmt.Errorf("the upstream received %s: %q, not %q", name, got, p.expand(t, want))
		}
	}
	return nil
}

var argumentPattern = regexp.MustCompile(`'[^']*'|\S+`)

// command runs the keywicket binary, as an operator does.
func (p *caseRun) command(t *testing.T, st step) error {
	var args []string
	for _, a := range argumentPattern.FindAllString(st.Keywicket, -1) {
		args = append(args, p.expand(t, strings.Trim(a, "'")))
	}
	asJSON := st.As != "" || st.Prints != nil
	if asJSON {
		args = append(args, "--output", "json")
	}
	deadline := time.Now().Add(st.Within)
	for {
		var stdout, stderr bytes.Buffer
		command := harness.Command(t.Context(), t, deployment.Stack, args...)
		command.Stdout, command.Stderr = &stdout, &stderr
		if err := command.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			return err
		}
		p.commands++
		err := p.checkOutput(t, st, command.ProcessState.ExitCode(), stdout.String(), stderr.String())
		if err == nil {
			time.Sleep(harness.Staleness) // the command may have changed something
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("keywicket %s: %w; on standard output:\n%s\non standard error:\n%s", strings.Join(args, " "), err, &stdout, &stderr)
		}
	}
}

func (p *caseRun) checkOutput(t *testing.T, st step, exit int, stdout, stderr string) error {
	if exit != st.Exit {
		return fmt.Errorf("the exit status is %d, not %d", exit, st.Exit)
	}
	matchAll := func(text string, patterns list) error {
		for _, pattern := range patterns {
			if ok, err := regexp.MatchString(p.expand(t, pattern), text); err != nil || !ok {
				return errors.Join(err, fmt.Errorf("the output does not match %s", p.expand(t, pattern)))
			}
		}
		return nil
	}
	if err := errors.Join(matchAll(stdout, st.Stdout), matchAll(stderr, st.Stderr)); err != nil {
		return err
	}
	for _, text := range st.NotPrinted {
		if strings.Contains(stdout+stderr, p.expand(t, text)) {
			return fmt.Errorf("the output contains %s", p.expand(t, text))
		}
	}
	if st.As == "" && st.Prints == nil {
		return nil
	}
	objects, err := objectsOf(stdout)
	if err != nil {
		return err
	}
	if st.As != "" {
		p.names[st.As] = objects[0]
	}
	for _, want := range st.Prints {
		if !slices.ContainsFunc(objects, func(o map[string]string) bool { return p.matches(t, o, want) }) {
			return fmt.Errorf("no object has %v", want)
		}
	}
	return nil
}

func (p *caseRun) matches(t *testing.T, object, want map[string]string) bool {
	for field, pattern := range want {
		value, ok := object[field]
		pattern = p.expand(t, pattern)
		if days, isDate := strings.CutPrefix(pattern, "in days: "); isDate { // with a tolerance of one minute
			n, err := strconv.Atoi(days)
			at, err2 := time.Parse(time.RFC3339, value)
			if errors.Join(err, err2) != nil || time.Until(at.AddDate(0, 0, -n)).Abs() > time.Minute {
				return false
			}
		} else if !ok || !regexp.MustCompile(`^(`+pattern+`)$`).MatchString(value) {
			return false
		}
	}
	return true
}

// objectsOf decodes one JSON object or an array of objects. The values of a list are joined with spaces.
func objectsOf(text string) ([]map[string]string, error) {
	var raw []map[string]any
	if !strings.HasPrefix(strings.TrimSpace(text), "[") {
		text = "[" + text + "]"
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, errors.New("no object is printed")
	}
	objects := make([]map[string]string, len(raw))
	for i, o := range raw {
		objects[i] = make(map[string]string, len(o))
		for field, value := range o {
			if value == nil {
				value = "null"
			}
			objects[i][field] = strings.Trim(fmt.Sprint(value), "[]")
		}
	}
	return objects, nil
}

// checkStoredHash checks the key's row in the database. The row must contain the key's SHA-256. No column may contain the
// key's secret part.
func (p *caseRun) checkStoredHash(t *testing.T, key string) error {
	var hashed, inClear bool
	err := harness.OpenDatabase(t, deployment.Stack).QueryRowContext(t.Context(), `
		SELECT digest = sha256(convert_to($2, 'UTF8')), strpos(t::text, $3) > 0 FROM keywicket.tokens t WHERE id = $1`,
		p.field(t, key, "id"), p.field(t, key, "token"), p.field(t, key, "secret")).Scan(&hashed, &inClear)
	if err == nil && (!hashed || inClear) {
		err = fmt.Errorf("stored as SHA-256: %t; in plain text: %t", hashed, inClear)
	}
	return err
}
