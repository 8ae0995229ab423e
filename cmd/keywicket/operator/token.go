package operator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/mask"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/internal/commandline"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

type tokenCommand struct {
	Create tokenCreate `cmd:"" help:"Create a token and show it once."`
	List   tokenList   `cmd:"" help:"List tokens with their visible prefix."`
	Set    tokenSet    `cmd:"" help:"Replace a token's attributes."`
	Rotate tokenRotate `cmd:"" help:"Create a token that replaces another one, and show it once."`
	Revoke tokenRevoke `cmd:"" help:"Revoke a token permanently."`
	Import tokenImport `cmd:"" help:"Import a product's existing tokens from standard input."`
	Leaked tokenLeaked `cmd:"" help:"Read leaked tokens from standard input, and revoke them."`
	Verify tokenVerify `cmd:"" help:"Read a token from standard input, and show what it is and whether it is good."`
}

type tokenCreate struct {
	Prefix    string               `help:"Prefix that identifies the kind of token: sk_live_, sk_test_, vel_, velu_, or a configured prefix." required:"" placeholder:"PREFIX"`
	API       string               `help:"The API. Required if several APIs have this prefix." name:"api" placeholder:"NAME"`
	Workspace string               `help:"Workspace of the token: id or slug." xor:"owner" placeholder:"W"`
	User      string               `help:"User of the token: id or email." xor:"owner" placeholder:"U"`
	Name      string               `help:"Name of the token, such as its purpose." required:"" placeholder:"NAME"`
	Scope     []string             `help:"Scopes to grant. Repeat the flag, or separate the scopes by commas." xor:"rights" placeholder:"SCOPE"`
	Access    string               `help:"Access of a workspace key, instead of scopes: read or read-write." xor:"rights" placeholder:"ACCESS"`
	ExpiresIn commandline.Lifetime `help:"Lifetime, such as 90d or 12h. Default: no expiry." xor:"expiry" placeholder:"DURATION"`
	ExpiresAt *commandline.Instant `help:"Expiry: an RFC 3339 time." xor:"expiry" placeholder:"TIME"`
	newAttributes
}

// createdToken is the output for a new token. No other output contains the whole token.
type createdToken struct {
	ID          string           `json:"id"`
	Token       string           `json:"token"`
	Prefix      string           `json:"prefix"`
	Name        string           `json:"name"`
	Scopes      []string         `json:"scopes"`
	WorkspaceID *string          `json:"workspace_id"`
	UserID      *string          `json:"user_id"`
	CreatedAt   time.Time        `json:"created_at"`
	ExpiresAt   *time.Time       `json:"expires_at"`
	Attributes  authz.Attributes `json:"attributes"`
}

func (c *tokenCreate) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	n, err := c.newToken(cfg)
	if err != nil {
		return err
	}
	t, key, err := r.CreateToken(s.Context, n)
	if err != nil {
		return err
	}
	return printCreated(s, t, key)
}

// printCreated prints a new token with its key.
func printCreated(s *invocation.Invocation, t registry.Token, key authz.Secret) error {
	err := invocation.PrintOne(s, createdToken{
		ID: t.ID, Token: key.Reveal(), Prefix: t.Prefix, Name: t.Name, Scopes: t.Scopes,
		WorkspaceID: t.WorkspaceID, UserID: t.UserID, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, Attributes: t.Attributes,
	},
		[2]string{"token", key.Reveal()},
		[2]string{"id", t.ID},
		[2]string{"name", t.Name},
		[2]string{"scopes", strings.Join(t.Scopes, " ")},
		[2]string{"expires", invocation.FormatTime(t.ExpiresAt)},
	)
	if err != nil {
		return fmt.Errorf("the token %s was created, but cannot be shown: run keywicket token revoke %s: %w", t.ID, t.ID, err)
	}
	if !s.JSON {
		fmt.Fprintln(s.Stderr, "Save the token now: it is not shown again.")
	}
	return nil
}

// newToken returns the token that the flags describe. It validates what the database cannot validate: the kind and the scopes.
func (c *tokenCreate) newToken(cfg config.Config) (registry.NewToken, error) {
	var n registry.NewToken
	api, format, err := findFormat(cfg, c.Prefix, c.API)
	if err != nil {
		return n, err
	}
	n = registry.NewToken{
		Format: format, API: api, Name: c.Name, Workspace: c.Workspace, User: c.User, Attributes: authz.Attributes(c.Attributes),
	}
	switch {
	case format.Kind.OfUser() && c.User == "":
		return n, invocation.Usage(fmt.Errorf("a token with the prefix %s belongs to a user: give --user", c.Prefix))
	case !format.Kind.OfUser() && c.Workspace == "":
		return n, invocation.Usage(fmt.Errorf("a token with the prefix %s belongs to a workspace: give --workspace", c.Prefix))
	}
	rules, err := rulesOf(cfg, api)
	if err != nil {
		return n, err
	}
	if n.Scopes, err = c.scopes(rules, format.Kind); err != nil {
		return n, err
	}
	n.ExpiresAt = (*time.Time)(c.ExpiresAt)
	expires := n.ExpiresAt
	if c.ExpiresIn > 0 {
		n.ExpiresIn = (*time.Duration)(&c.ExpiresIn)
		expires = new(time.Now().Add(*n.ExpiresIn))
	}
	return n, checkExpiry(rules, api, format.Kind, expires)
}

// rulesOf returns the rules for new tokens of an API.
func rulesOf(cfg config.Config, api string) (issuance.Rules, error) {
	tables, err := cfg.Tables()
	return issuance.Rules{Table: tables[api], Limits: cfg.APIs[api].TokenLimits}, err
}

// checkExpiry asks the rules whether a new token of the kind may have this expiry. Only the limits of the configuration can refuse it,
// so the error names them. It accepts an expiry in the past, because the database's clock decides about it.
func checkExpiry(rules issuance.Rules, api string, kind authz.Kind, expires *time.Time) error {
	now := time.Now()
	if expires != nil && !expires.After(now) {
		return nil
	}
	if err := rules.Check(issuance.Maker{Operator: true}, issuance.New{Kind: kind, Expires: expires}, now); err != nil {
		return database.NewRefusal(database.ErrInvalid, "%v (apis.%s.token_limits)", err, api)
	}
	return nil
}

// findFormat returns the API that has a credential format with the prefix, and this format. If the parameter `api` is not empty,
// findFormat considers only that API. It ignores the format of access tokens, because only the issuer creates access tokens.
func findFormat(cfg config.Config, prefix, api string) (string, authz.CredentialFormat, error) {
	var valid, names []string
	var found authz.CredentialFormat
	for _, name := range slices.Sorted(maps.Keys(cfg.APIs)) {
		for _, f := range cfg.APIs[name].OperatorFormats() {
			valid = append(valid, f.Prefix)
		}
		if f, ok := cfg.APIs[name].Format(prefix); ok && f.Kind != authz.KindOAuthToken && (api == "" || api == name) {
			names, found = append(names, name), f
		}
	}
	switch len(names) {
	case 0:
		return "", found, invocation.Undefined(fmt.Errorf("no kind of token has the prefix %s; prefixes are %s", mask.Arguments(strconv.Quote(prefix), []string{prefix}), strings.Join(valid, ", ")))
	case 1:
		return names[0], found, nil
	}
	return "", found, invocation.Usage(fmt.Errorf("several APIs have the prefix %s: give --api with one of these values: %s", prefix, strings.Join(names, ", ")))
}

func (c *tokenCreate) scopes(rules issuance.Rules, kind authz.Kind) ([]string, error) {
	valid := rules.ScopesOf(kind)
	if c.Access != "" {
		if c.Access != "read" && c.Access != "read-write" {
			return nil, invocation.Usage(fmt.Errorf("--access: %q is neither read nor read-write", c.Access))
		}
		if kind != authz.KindWorkspaceKey {
			return nil, invocation.Usage(fmt.Errorf("--access is only for workspace keys: give --scope; scopes are %s", strings.Join(valid, ", ")))
		}
		return rules.AccessScopes(kind, c.Access == "read-write"), nil
	}
	if len(c.Scope) == 0 {
		return nil, invocation.Usage(fmt.Errorf("give --scope; scopes are %s", strings.Join(valid, ", ")))
	}
	var scopes []string
	for _, scope := range c.Scope {
		if !slices.Contains(valid, scope) {
			return nil, invocation.Undefined(fmt.Errorf("%q is not a scope for this kind of token; scopes are %s", scope, strings.Join(valid, ", ")))
		}
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes, nil
}

type tokenList struct {
	Workspace   string               `help:"Only tokens of this workspace: id or slug." xor:"owner" placeholder:"W"`
	User        string               `help:"Only tokens of this user: id or email." xor:"owner" placeholder:"U"`
	Expiring    commandline.Lifetime `help:"Only active tokens that expire within this time, such as 14d." placeholder:"DURATION"`
	Unused      commandline.Lifetime `help:"Only active tokens that were not used for this time, such as 90d. With --expiring: tokens of either kind." placeholder:"DURATION"`
	CreatorLeft bool                 `help:"Only tokens of workspaces whose creator is not a member of the workspace."`
	Prefix      string               `help:"Only tokens whose visible prefix starts with this text. A whole key is shortened to its visible prefix." placeholder:"TEXT"`
	Limit       commandline.Count    `help:"Maximum number of tokens." default:"100" placeholder:"N"`
	After       string               `help:"Id of the last token of the previous page." placeholder:"ID"`
}

func (c *tokenList) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	f := registry.TokenFilter{
		Workspace: c.Workspace, User: c.User, ExpiringIn: time.Duration(c.Expiring), UnusedFor: time.Duration(c.Unused),
		CreatorLeft: c.CreatorLeft, After: c.After,
	}
	if c.Prefix != "" {
		var err error
		if f.Prefix, err = mask.Start(cfg.APIs, c.Prefix); err != nil {
			return invocation.Undefined(err)
		}
	}
	limit := int(c.Limit)
	f.Limit = limit + 1 // one more token shows whether there is a next page
	page, err := r.Tokens(s.Context, f)
	if err != nil {
		return err
	}
	more := len(page) > limit
	if more {
		page = page[:limit]
	}
	titles := []string{"ID", "PREFIX", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "STATUS"}
	if c.CreatorLeft {
		titles = append(titles, "CREATED BY")
	}
	err = invocation.PrintList(s, page, titles, func(t registry.Token) []string {
		row := []string{
			t.ID, t.Prefix, t.Name, strings.Join(t.Scopes, " "),
			invocation.FormatTime(&t.CreatedAt), invocation.FormatTime(t.ExpiresAt), invocation.FormatTime(t.LastUsedAt), statusText(t.Status, t.RevokedReason),
		}
		if c.CreatorLeft {
			row = append(row, *t.CreatedBy)
		}
		return row
	})
	if err == nil && more {
		c.Prefix, c.After = f.Prefix, page[len(page)-1].ID
		fmt.Fprintln(s.Stderr, "There are more tokens: "+c.command(s))
	}
	return err
}

// command returns the command line of `keywicket token list` with the flags in c.
func (c *tokenList) command(s *invocation.Invocation) string {
	command := "keywicket token list"
	if c.CreatorLeft {
		command += " --creator-left"
	}
	return invocation.CommandLine(command, [][2]string{
		{"--config", s.ConfigFlag}, {"--workspace", c.Workspace}, {"--user", c.User}, {"--expiring", c.Expiring.String()}, {"--unused", c.Unused.String()},
		{"--prefix", c.Prefix}, {"--limit", strconv.Itoa(int(c.Limit))}, {"--after", c.After},
	})
}

type tokenSet struct {
	ID string `arg:"" help:"The token's id. The command 'keywicket token list' shows it." name:"id"`
	setAttributes
}

func (c *tokenSet) Run(s *invocation.Invocation, r *registry.Registry) error {
	t, err := r.SetTokenAttributes(s.Context, c.ID, authz.Attributes(c.Attributes))
	if err != nil {
		return err
	}
	return c.printOne(s, r, t, [2]string{"id", t.ID}, [2]string{"name", t.Name}, [2]string{"attributes", t.Attributes.JSON()})
}

type tokenRotate struct {
	ID      string               `arg:"" help:"The id of the token to replace. The command 'keywicket token list' shows it." name:"id"`
	Overlap commandline.Lifetime `help:"How long the old token stays valid. Default: it ends immediately." placeholder:"DURATION"`
}

func (c *tokenRotate) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	old, err := r.Token(s.Context, c.ID)
	if err != nil {
		return err
	}
	_, format, err := findFormat(cfg, formatPrefix(cfg, old), old.API)
	if err != nil {
		return err
	}
	rules, err := rulesOf(cfg, old.API)
	if err != nil {
		return err
	}
	var expires *time.Time
	if old.ExpiresAt != nil {
		expires = new(time.Now().Add(old.ExpiresAt.Sub(old.CreatedAt)))
	}
	if err := checkExpiry(rules, old.API, old.Kind, expires); err != nil {
		return err
	}
	t, key, err := r.RotateToken(s.Context, c.ID, format, time.Duration(c.Overlap))
	if err != nil {
		return err
	}
	return printCreated(s, t, key)
}

// formatPrefix returns the prefix of the format of a token's key. If no format matches, it returns the token's visible prefix.
func formatPrefix(cfg config.Config, t registry.Token) string {
	prefix := ""
	for _, f := range cfg.APIs[t.API].OperatorFormats() {
		if f.Kind == t.Kind && f.Environment == t.Environment && strings.HasPrefix(t.Prefix, f.Prefix) && len(f.Prefix) > len(prefix) {
			prefix = f.Prefix
		}
	}
	return cmp.Or(prefix, t.Prefix)
}

type tokenRevoke struct {
	ID string `arg:"" help:"The token's id. The command 'keywicket token list' shows it." name:"id"`
	waitFlag
}

func (c *tokenRevoke) Run(s *invocation.Invocation, r *registry.Registry) error {
	t, err := r.RevokeToken(s.Context, c.ID)
	if err != nil {
		return err
	}
	return c.printOne(s, r, t, [2]string{"id", t.ID}, [2]string{"name", t.Name}, [2]string{"status", statusText(t.Status, t.RevokedReason)},
		[2]string{"revoked", invocation.FormatTime(t.RevokedAt)})
}

// statusText returns the status, and the reason of a revocation.
func statusText(status registry.Status, revokedReason *string) string {
	if revokedReason == nil {
		return string(status)
	}
	return fmt.Sprintf("%s (%s)", status, *revokedReason)
}
