package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/internal/commandline"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
)

type explainCommand struct {
	Method    string               `arg:"" help:"HTTP method, such as GET."`
	Path      string               `arg:"" help:"Path, as a client sends it."`
	TokenID   commandline.NonEmpty `help:"Id of the token that the request has. For an app's access token, copy the id from the decision log. Without --token-id, --user and --scope, the request has no credential." name:"token-id" xor:"who" placeholder:"ID"`
	User      commandline.NonEmpty `help:"Id or email of a user. The request has a session of this user. If the API requires a second factor, the simulated session has a second factor." xor:"who" placeholder:"U"`
	Scope     []string             `help:"Scopes of a simulated token, instead of a real token. If one scope is a user-level scope, the token belongs to a user with the role owner." xor:"who" placeholder:"SCOPE"`
	Workspace string               `help:"Workspace of the request: id or slug." placeholder:"W"`
	API       string               `help:"API of the request. Default: with --token-id, the token's API; with --user, the API that accepts sessions; with --scope, the API that has the scopes; otherwise, the API that has the route." name:"api" placeholder:"NAME"`

	PoliciesDir string `help:"Folder of policies. Default: the built-in policies." name:"policies-dir" placeholder:"DIR"`
}

func (c *explainCommand) Run(s *invocation, cfg config.Config) error {
	setIfNotEmpty(&cfg.Policies.Dir, c.PoliciesDir)
	policies, err := cfg.Explainer(s.ctx)
	if err != nil {
		return err
	}
	var registry *registry.Registry // nil if nothing is looked up in the database
	required := c.TokenID != "" || c.User != ""
	if required || c.Workspace != "" && cfg.Database.URL != "" {
		registry, err = s.openRegistry()
		switch {
		case err != nil && required:
			return err
		case err != nil:
			fmt.Fprintf(s.stderr, "keywicket: %s; explain continues without it, and W represents a value that only the database knows\n", s.maskKeys(err.Error()))
		}
	}
	explainer := explain.New(explain.Config{
		APIs: cfg.APIs, DefaultAPI: cfg.DefaultAPI, AllowedHeaders: cfg.AllowedHeaders, ConfigFile: s.configFlag,
	}, policies, registry)
	e, err := explainer.Explain(s.ctx, explain.Request{
		Method: c.Method, Path: c.Path, TokenID: string(c.TokenID), User: string(c.User), Scopes: c.Scope, Workspace: c.Workspace, API: c.API,
	})
	if errors.As(err, &explain.RequestError{}) {
		return usageError{err}
	}
	if errors.As(err, &explain.UndefinedError{}) {
		return undefinedError{err}
	}
	if err != nil {
		return err
	}
	if s.json {
		return s.print(e, nil, nil)
	}
	_, err = io.WriteString(s.stdout, e.Text())
	return err
}
