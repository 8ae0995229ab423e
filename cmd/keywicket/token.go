package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store"
)

type tokenCommand struct {
	Create tokenCreate `cmd:"" help:"Create a token, and show it once."`
	List   tokenList   `cmd:"" help:"List tokens by their visible prefix."`
	Set    tokenSet    `cmd:"" help:"Replace a token's attributes."`
	Revoke tokenRevoke `cmd:"" help:"Revoke a token, for good."`
	Import tokenImport `cmd:"" help:"Import a product's existing tokens from standard input."`
}

type tokenCreate struct {
	Prefix    string   `help:"Prefix of the kind of token, such as sk_live_, sk_test_, vel_, velu_." required:"" placeholder:"PREFIX"`
	API       string   `help:"The API, where several have this prefix." name:"api" placeholder:"NAME"`
	Workspace string   `help:"Workspace that the token belongs to: id or slug." xor:"owner" placeholder:"W"`
	User      string   `help:"User that the token belongs to: id or email." xor:"owner" placeholder:"U"`
	Name      string   `help:"What the token is for." required:"" placeholder:"NAME"`
	Scope     []string `help:"Scope to grant; repeated or comma-separated." xor:"rights" placeholder:"SCOPE"`
	Access    string   `help:"For a workspace key instead of scopes: read or read-write." xor:"rights" placeholder:"ACCESS"`
	ExpiresIn string   `help:"Lifetime, such as 90d or 12h. Without an expiry the token lives until it is revoked." xor:"expiry" placeholder:"DURATION"`
	ExpiresAt string   `help:"End of life: an RFC 3339 time." xor:"expiry" placeholder:"TIME"`
	newAttributes
}

// created is what is printed of a new token: the only time that it is shown.
type created struct {
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

func (c *tokenCreate) Run(s *invocation, r *store.Registry, cfg config) error {
	n, err := c.newToken(cfg)
	if err != nil {
		return err
	}
	t, key, err := r.CreateToken(s.ctx, n)
	if err != nil {
		return err
	}
	err = printOne(s, created{
		ID: t.ID, Token: key.Reveal(), Prefix: t.Prefix, Name: t.Name, Scopes: t.Scopes,
		WorkspaceID: t.WorkspaceID, UserID: t.UserID, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, Attributes: t.Attributes,
	},
		[2]string{"token", key.Reveal()},
		[2]string{"id", t.ID},
		[2]string{"name", t.Name},
		[2]string{"scopes", strings.Join(t.Scopes, " ")},
		[2]string{"expires", when(t.ExpiresAt)},
	)
	if err != nil {
		return fmt.Errorf("the token %s was made, and could not be shown: keywicket token revoke %s: %w", t.ID, t.ID, err)
	}
	if !s.json {
		fmt.Fprintln(s.stderr, "Keep the token now: it is not shown again.")
	}
	return nil
}

// newToken checks everything that the database does not know: kinds, scopes, times.
func (c *tokenCreate) newToken(cfg config) (store.NewToken, error) {
	var n store.NewToken
	api, format, err := findFormat(cfg, c.Prefix, c.API)
	if err != nil {
		return n, err
	}
	n = store.NewToken{
		Format: format, API: api, Name: c.Name, Workspace: c.Workspace, User: c.User, Attributes: authz.Attributes(c.Attributes),
	}
	switch {
	case format.Kind.OfUser() && c.User == "":
		return n, usageError{fmt.Errorf("a token with the prefix %s belongs to a user: give --user", c.Prefix)}
	case !format.Kind.OfUser() && c.Workspace == "":
		return n, usageError{fmt.Errorf("a token with the prefix %s belongs to a workspace: give --workspace", c.Prefix)}
	}
	valid, table, err := scopesFor(cfg, api, format.Kind)
	if err != nil {
		return n, err
	}
	if n.Scopes, err = c.scopes(valid, table, format.Kind); err != nil {
		return n, err
	}
	return n, c.expiry(&n)
}

// scopesFor lists the scopes that a token of the kind can have, and returns the API's table.
func scopesFor(cfg config, api string, kind authz.Kind) ([]string, policies.Table, error) {
	tables, err := policies.Tables(cfg.Policies.FS())
	if err == nil {
		err = checkTables(cfg, tables)
	}
	if err != nil {
		return nil, policies.Table{}, policyError(cfg, err)
	}
	if kind.OfUser() {
		return tables[api].ScopeNames(policies.LevelWorkspace, policies.LevelUser), tables[api], nil
	}
	return tables[api].ScopeNames(policies.LevelWorkspace), tables[api], nil
}

// madeHere are the kinds of keys that an operator makes: not those that an issuer gives to apps.
func madeHere(api authz.API) []authz.CredentialFormat {
	return slices.DeleteFunc(slices.Clone(api.Credentials), func(f authz.CredentialFormat) bool { return f.Kind == authz.KindOAuthToken })
}

// findFormat finds the API whose keys have the prefix.
func findFormat(cfg config, prefix, api string) (string, authz.CredentialFormat, error) {
	var valid, having []string
	var found authz.CredentialFormat
	for _, name := range slices.Sorted(maps.Keys(cfg.APIs)) {
		for _, f := range madeHere(cfg.APIs[name]) {
			valid = append(valid, f.Prefix)
		}
		if f, ok := cfg.APIs[name].Format(prefix); ok && f.Kind != authz.KindOAuthToken && (api == "" || api == name) {
			having, found = append(having, name), f
		}
	}
	switch len(having) {
	case 0:
		return "", found, fmt.Errorf("no kind of token has the prefix %s; prefixes are %s", masked(strconv.Quote(prefix), []string{prefix}), strings.Join(valid, ", "))
	case 1:
		return having[0], found, nil
	}
	return "", found, usageError{fmt.Errorf("the prefix %s is that of %s: give --api", prefix, strings.Join(having, " and "))}
}

func (c *tokenCreate) scopes(valid []string, table policies.Table, kind authz.Kind) ([]string, error) {
	if c.Access != "" {
		if c.Access != "read" && c.Access != "read-write" {
			return nil, usageError{fmt.Errorf("--access: %q is neither read nor read-write", c.Access)}
		}
		if kind != authz.KindWorkspaceKey {
			return nil, usageError{fmt.Errorf("--access is for workspace keys: give --scope, of %s", strings.Join(valid, ", "))}
		}
		return accessScopes(valid, table, c.Access), nil
	}
	if len(c.Scope) == 0 {
		return nil, usageError{fmt.Errorf("give --scope, of %s", strings.Join(valid, ", "))}
	}
	var scopes []string
	for _, scope := range c.Scope {
		if !slices.Contains(valid, scope) {
			return nil, fmt.Errorf("%q is no scope of such a token; scopes are %s", scope, strings.Join(valid, ", "))
		}
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes, nil
}

// accessScopes: read-only and read-write keys (velocity, "Workspace API Keys"). Neither administers, so no scope that implies an
// override is among them.
func accessScopes(valid []string, table policies.Table, access string) []string {
	var scopes []string
	for _, scope := range valid {
		if table.IsOverride(scope, policies.LevelWorkspace) {
			continue
		}
		if strings.HasSuffix(scope, ":read") || access == "read-write" && strings.HasSuffix(scope, ":write") {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

func (c *tokenCreate) expiry(n *store.NewToken) error {
	if c.ExpiresIn != "" {
		d, err := parseLifetime(c.ExpiresIn)
		if err != nil {
			return usageError{fmt.Errorf("--expires-in: %q is no lifetime, such as 90d or 12h", c.ExpiresIn)}
		}
		n.ExpiresIn = &d
	}
	if c.ExpiresAt != "" {
		t, err := time.Parse(time.RFC3339, c.ExpiresAt)
		if err != nil {
			return usageError{fmt.Errorf("--expires-at: %q is no RFC 3339 time, such as 2030-01-31T12:00:00Z", c.ExpiresAt)}
		}
		n.ExpiresAt = &t
	}
	return nil
}

// parseLifetime takes what time.ParseDuration does, and whole days.
func parseLifetime(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

type tokenList struct {
	Workspace string `help:"Only of this workspace: id or slug." xor:"owner" placeholder:"W"`
	User      string `help:"Only of this user: id or email." xor:"owner" placeholder:"U"`
	Prefix    string `help:"Only those that start like this, as far as they may be shown. Of a whole key its visible part is taken." placeholder:"TEXT"`
	Limit     int    `help:"How many at most." default:"100" placeholder:"N"`
	After     string `help:"Only those that come after this one in the list: the next page." placeholder:"ID"`
}

func (c *tokenList) Run(s *invocation, r *store.Registry, cfg config) error {
	if c.Limit < 1 {
		return usageError{fmt.Errorf("--limit: %d is less than 1", c.Limit)}
	}
	f := store.TokenFilter{Workspace: c.Workspace, User: c.User, After: c.After}
	if c.Prefix != "" {
		var err error
		if f.Prefix, err = visibleStart(cfg, c.Prefix); err != nil {
			return err
		}
	}
	f.Limit = c.Limit + 1 // one more tells whether there is a next page
	page, err := r.Tokens(s.ctx, f)
	if err != nil {
		return err
	}
	more := len(page) > c.Limit
	if more {
		page = page[:c.Limit]
	}
	titles := []string{"ID", "PREFIX", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "STATUS"}
	err = printList(s, page, titles, func(t store.Token) []string {
		return []string{
			t.ID, t.Prefix, t.Name, strings.Join(t.Scopes, " "),
			when(&t.CreatedAt), when(t.ExpiresAt), when(t.LastUsedAt), string(t.Status),
		}
	})
	if err == nil && more {
		c.Prefix, c.After = f.Prefix, page[len(page)-1].ID
		fmt.Fprintln(s.stderr, "There are more: "+c.command())
	}
	return err
}

// command is the command line that says the same.
func (c *tokenList) command() string {
	words := []string{"keywicket token list"}
	for _, f := range [][2]string{
		{"--workspace", c.Workspace}, {"--user", c.User}, {"--prefix", c.Prefix}, {"--limit", strconv.Itoa(c.Limit)},
		{"--after", c.After},
	} {
		if f[1] != "" {
			words = append(words, f[0], quote(f[1]))
		}
	}
	return strings.Join(words, " ")
}

// visibleStart cuts text, which may be a whole key, to what may be shown of keys that start like it. Where there is no
// kind of these, nobody knows how much that is, and the text is not repeated.
func visibleStart(cfg config, text string) (string, error) {
	var kind string
	var valid []string
	visible := 0
	for _, name := range slices.Sorted(maps.Keys(cfg.APIs)) {
		for _, f := range cfg.APIs[name].Credentials {
			if f.Kind != authz.KindOAuthToken {
				valid = append(valid, f.Prefix)
			}
			switch {
			case strings.HasPrefix(f.Prefix, text):
				return text, nil
			case !strings.HasPrefix(text, f.Prefix) || len(f.Prefix) < len(kind):
			case len(f.Prefix) > len(kind):
				kind, visible = f.Prefix, f.VisiblePrefix
			default:
				visible = min(visible, f.VisiblePrefix)
			}
		}
	}
	if kind == "" {
		return "", fmt.Errorf("no kind of token starts like this; prefixes are %s", strings.Join(valid, ", "))
	}
	return text[:min(len(text), visible)], nil
}

type tokenSet struct {
	ID string `arg:"" help:"The token's id, as token list shows it." name:"id"`
	setAttributes
}

func (c *tokenSet) Run(s *invocation, r *store.Registry) error {
	t, err := r.SetTokenAttributes(s.ctx, c.ID, authz.Attributes(c.Attributes))
	if err != nil {
		return err
	}
	return c.printOne(s, r, t, [2]string{"id", t.ID}, [2]string{"name", t.Name}, [2]string{"attributes", t.Attributes.JSON()})
}

type tokenRevoke struct {
	ID string `arg:"" help:"The token's id, as token list shows it." name:"id"`
	waiting
}

func (c *tokenRevoke) Run(s *invocation, r *store.Registry) error {
	t, err := r.RevokeToken(s.ctx, c.ID)
	if err != nil {
		return err
	}
	return c.printOne(s, r, t, [2]string{"id", t.ID}, [2]string{"name", t.Name}, [2]string{"status", string(t.Status)},
		[2]string{"revoked", when(t.RevokedAt)})
}
