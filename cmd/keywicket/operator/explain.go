package operator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/explain/logline"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
)

type explainCommand struct {
	Method    string   `arg:"" optional:"" help:"HTTP method, such as GET."`
	Path      string   `arg:"" optional:"" help:"Path, as a client sends it."`
	LogLine   string   `help:"Line of the sidecar's decision log, or - to read it from standard input. The method, the path and the flags add what the line does not contain." name:"log-line" placeholder:"LINE"`
	TokenID   string   `help:"Id of the token that the request has. For an app's access token, copy the id from the decision log. Without --token-id, --user and --scope, the request has no credential." name:"token-id" xor:"who" placeholder:"ID"`
	User      string   `help:"Id or email of a user. The request has a session of this user. If the API requires a second factor, the simulated session has a second factor." xor:"who" placeholder:"U"`
	Scope     []string `help:"Scopes of a simulated token, instead of a real token. If one scope is a user-level scope, the token belongs to a user with the role owner." xor:"who" placeholder:"SCOPE"`
	Workspace string   `help:"Workspace of the request: id or slug." placeholder:"W"`
	API       string   `help:"API of the request. Default: with --token-id, the token's API; with --user, the API that accepts sessions; with --scope, the API that has the scopes; otherwise, the API that has the route." name:"api" placeholder:"NAME"`

	PoliciesDir string `help:"Folder of policies. Default: the built-in policies." name:"policies-dir" placeholder:"DIR"`
}

// Validate implements the interface of kong. It checks the arguments, which are optional with --log-line.
func (c *explainCommand) Validate() error {
	switch {
	case c.LogLine == "" && c.Path == "":
		return errors.New(`expected <method> <path>, or --log-line`)
	case c.Method != "" && c.Path == "":
		return errors.New("give the method and the path, or neither")
	}
	return nil
}

// request returns the request to explain. With --log-line, it also returns the decision of the line.
func (c *explainCommand) request(s *invocation.Invocation) (r explain.Request, logged string, err error) {
	r = explain.Request{
		Method: c.Method, Path: c.Path, TokenID: c.TokenID, User: c.User, Scopes: c.Scope, Workspace: c.Workspace, API: c.API,
	}
	if c.LogLine == "" {
		return r, "", nil
	}
	text := []byte(c.LogLine)
	if c.LogLine == "-" {
		if text, err = io.ReadAll(io.LimitReader(interruptible(s.Context, os.Stdin), maxLogLines)); err != nil {
			return r, "", fmt.Errorf("read the line from standard input: %w", err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return r, "", errors.New("standard input has no line: give one line of the decision log")
		}
	}
	line, err := logline.Parse(text)
	if err != nil {
		return r, "", err
	}
	r, err = line.Request(r)
	return r, line.Decision(), err
}

// maxLogLines limits the bytes that --log-line reads from standard input. A line of the decision log is much shorter.
const maxLogLines = 1 << 20

func (c *explainCommand) Run(s *invocation.Invocation, cfg config.Config) error {
	request, logged, err := c.request(s)
	if err != nil {
		return err
	}
	invocation.SetIfNotEmpty(&cfg.Policies.Dir, c.PoliciesDir)
	policies, err := cfg.Explainer(s.Context)
	if err != nil {
		return err
	}
	var registry *registry.Registry // nil if nothing is looked up in the database
	required := request.TokenID != "" || request.User != ""
	if required || request.Workspace != "" && cfg.Database.URL != "" {
		registry, err = s.OpenRegistry()
		switch {
		case err != nil && required:
			return err
		case err != nil:
			fmt.Fprintf(s.Stderr, "keywicket: %s; explain continues without it, and W represents a value that only the database knows\n", s.MaskKeys(err.Error()))
		}
	}
	explainer := explain.New(explain.Config{
		APIs: cfg.APIs, DefaultAPI: cfg.DefaultAPI, AllowedHeaders: cfg.AllowedHeaders, ConfigFile: s.ConfigFlag,
	}, policies, registry)
	e, err := explainer.Explain(s.Context, request)
	if errors.As(err, &explain.RequestError{}) {
		return invocation.Usage(err)
	}
	if errors.As(err, &explain.UndefinedError{}) {
		return invocation.Undefined(err)
	}
	if err != nil {
		return err
	}
	if logged != e.Decision() {
		e.Logged = logged
	}
	if s.JSON {
		return s.Print(e, nil, nil)
	}
	_, err = io.WriteString(s.Stdout, e.Text())
	return err
}
