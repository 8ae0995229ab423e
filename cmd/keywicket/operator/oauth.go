package operator

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
)

type oauthAppCommand struct {
	Create       oauthAppCreate `cmd:"" help:"Register an app and show its secret once."`
	List         oauthAppList   `cmd:"" help:"List apps."`
	RotateSecret oauthAppRotate `cmd:"" help:"Replace an app's secret. The previous secret becomes invalid."`
	Revoke       oauthAppRevoke `cmd:"" help:"Revoke an app and all of its grants."`
}

type oauthAppCreate struct {
	Name         string   `help:"The app's name on the consent page." required:"" placeholder:"NAME"`
	RedirectURI  []string `help:"Redirect URI. Its scheme is https, or http on the host 127.0.0.1 or [::1], or the app's own scheme. With --development, also http on localhost. May be repeated." name:"redirect-uri" required:"" sep:"none" placeholder:"URI"`
	Scope        []string `help:"Scopes to ask the user for if the app's request has no scope. Repeat the flag, or separate the scopes by commas." placeholder:"SCOPE"`
	Confidential bool     `help:"The app runs on a server that can keep a secret. It must authenticate with its secret."`
	Development  bool     `help:"The app is in development: a redirect URI may be http://localhost, and the consent page says that the app is in development. Do not use it for an app that your users use (RFC 8252, section 8.3)."`
	ID           string   `help:"The client id. Default: a generated id." name:"id" placeholder:"ID"`
	API          string   `help:"The API of the app's access tokens. Required if several APIs have credentials of the kind oauth_token." name:"api" placeholder:"NAME"`
}

// appWithSecret is the output for an app with a new secret. No other output contains the secret.
type appWithSecret struct {
	registry.App
	Secret string `json:"client_secret"`
}

func (c *oauthAppCreate) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	api, err := c.api(cfg)
	if err != nil {
		return err
	}
	rules, err := rulesOf(cfg, api)
	if err != nil {
		return err
	}
	scopes := slices.Compact(slices.Sorted(slices.Values(c.Scope)))
	err = rules.CheckApp(issuance.Maker{Operator: true}, issuance.App{RedirectURIs: c.RedirectURI, Scopes: scopes, Development: c.Development})
	if refusal, ok := errors.AsType[*issuance.RefusalError](err); ok && refusal.Field == "redirect_uris" {
		return fmt.Errorf("--redirect-uri %w", err)
	} else if ok && refusal.Field == "scopes" {
		return invocation.Undefined(err)
	}
	if err != nil {
		return err
	}
	app, secret, err := r.CreateApp(s.Context, registry.NewApp{
		ID: c.ID, API: api, Name: c.Name, RedirectURIs: c.RedirectURI, Scopes: scopes, Confidential: c.Confidential, Development: c.Development,
	})
	if err != nil {
		return err
	}
	return printApp(s, app, secret)
}

// api returns the API of the app's access tokens.
func (c *oauthAppCreate) api(cfg config.Config) (string, error) {
	names := authz.MatchingAPIs(cfg.APIs, c.API, func(a authz.API) bool {
		return slices.ContainsFunc(a.Credentials, func(f authz.CredentialFormat) bool { return f.Kind == authz.KindOAuthToken })
	})
	switch len(names) {
	case 0:
		return "", invocation.Undefined(errors.New("no matching API has credentials of the kind oauth_token"))
	case 1:
		return names[0], nil
	}
	return "", invocation.Usage(fmt.Errorf("several APIs have credentials of the kind oauth_token: give --api with one of these values: %s", strings.Join(names, ", ")))
}

func printApp(s *invocation.Invocation, app registry.App, secret authz.Secret) error {
	err := invocation.PrintOne(s, appWithSecret{app, secret.Reveal()},
		[2]string{"client id", app.ID},
		[2]string{"client secret", secret.Reveal()},
		[2]string{"name", app.Name},
		[2]string{"redirect URIs", strings.Join(app.RedirectURIs, " ")},
		[2]string{"scopes", strings.Join(app.Scopes, " ")},
		[2]string{"confidential", fmt.Sprint(app.Confidential)},
		[2]string{"development", fmt.Sprint(app.Development)},
	)
	if err != nil {
		return fmt.Errorf("the secret of %s was created, but cannot be shown: run keywicket oauth-app rotate-secret %s: %w", app.ID, app.ID, err)
	}
	if !s.JSON {
		fmt.Fprintln(s.Stderr, "Save the secret now: it is not shown again.")
	}
	return nil
}

type oauthAppList struct{}

func (c *oauthAppList) Run(s *invocation.Invocation, r *registry.Registry) error {
	apps, err := r.Apps(s.Context)
	if err != nil {
		return err
	}
	titles := []string{"CLIENT ID", "NAME", "REDIRECT URIS", "SCOPES", "CONFIDENTIAL", "DEVELOPMENT", "CREATED", "STATUS"}
	return invocation.PrintList(s, apps, titles, func(a registry.App) []string {
		return []string{
			a.ID, a.Name, strings.Join(a.RedirectURIs, " "), strings.Join(a.Scopes, " "), fmt.Sprint(a.Confidential), fmt.Sprint(a.Development),
			invocation.FormatTime(&a.CreatedAt), string(a.Status),
		}
	})
}

type oauthAppRotate struct {
	ID string `arg:"" help:"The client id. The command 'keywicket oauth-app list' shows it." name:"id"`
	waitFlag
}

func (c *oauthAppRotate) Run(s *invocation.Invocation, r *registry.Registry) error {
	app, secret, err := r.RotateAppSecret(s.Context, c.ID)
	if err != nil {
		return err
	}
	return printApp(s, app, secret)
}

type oauthAppRevoke struct {
	ID string `arg:"" help:"The client id. The command 'keywicket oauth-app list' shows it." name:"id"`
	waitFlag
}

func (c *oauthAppRevoke) Run(s *invocation.Invocation, r *registry.Registry) error {
	app, err := r.RevokeApp(s.Context, c.ID)
	if err != nil {
		return err
	}
	return c.printOne(s, r, app, [2]string{"client id", app.ID}, [2]string{"name", app.Name}, [2]string{"status", string(app.Status)},
		[2]string{"revoked", invocation.FormatTime(app.RevokedAt)})
}

type grantCommand struct {
	List   grantList   `cmd:"" help:"List grants, newest first."`
	Revoke grantRevoke `cmd:"" help:"Revoke a grant and all of its tokens."`
}

type grantList struct {
	App  string `help:"Only grants to this app: its client id." placeholder:"ID"`
	User string `help:"Only grants of this user: id or email." placeholder:"U"`
}

func (c *grantList) Run(s *invocation.Invocation, r *registry.Registry) error {
	grants, err := r.Grants(s.Context, c.App, c.User)
	if err != nil {
		return err
	}
	return invocation.PrintList(s, grants, []string{"ID", "APP", "USER", "SCOPES", "WORKSPACES", "CREATED", "STATUS"}, func(g registry.Grant) []string {
		return []string{g.ID, g.AppName, g.Email, strings.Join(g.Scopes, " "), strings.Join(g.Workspaces, " "), invocation.FormatTime(&g.CreatedAt), statusText(g.Status, g.RevokedReason)}
	})
}

type grantRevoke struct {
	ID string `arg:"" help:"The grant's id. The command 'keywicket grant list' shows it." name:"id"`
	waitFlag
}

func (c *grantRevoke) Run(s *invocation.Invocation, r *registry.Registry) error {
	g, err := r.RevokeGrant(s.Context, c.ID)
	if err != nil {
		return err
	}
	return c.printOne(s, r, g, [2]string{"id", g.ID}, [2]string{"app", g.AppName}, [2]string{"user", g.Email}, [2]string{"status", statusText(g.Status, g.RevokedReason)},
		[2]string{"revoked", invocation.FormatTime(g.RevokedAt)})
}
