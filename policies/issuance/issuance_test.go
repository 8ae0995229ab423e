package issuance_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/policies/table"
)

const workspace = "64f1a2b3c4d5e6f7a8b9c0d1"

func load(t *testing.T) *policies.Engine {
	t.Helper()
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// credential is a credential in the workspace, with the role of its user there.
type credential struct {
	kind   authz.Kind
	scopes []string
	role   string
}

// allows reports whether the real policy allows a request with the credential in the workspace.
func allows(t *testing.T, engine *policies.Engine, api string, c credential, r table.Route) bool {
	t.Helper()
	method, path := r.Sample()
	in := authz.Input{
		API: api, Method: method, Path: path,
		Principal: &authz.Principal{ID: "p", Kind: c.kind, API: api, Environment: authz.Live, Scopes: c.scopes},
		Workspace: authz.Workspace{Requested: true, ID: workspace, Slug: "acme", Granted: true},
	}
	if c.kind.OfUser() {
		in.Principal.UserID, in.Workspace.Role = "ada", c.role
		in.Workspace.Granted = c.role != ""
	}
	d, err := engine.Decide(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return d.Allow
}

// Nobody can create a token with which the policy allows a request that the maker's own credential is not allowed to make. The test
// tries every role, every kind of credential with every single scope and with all scopes, every kind of new token, and every scope.
// For each combination that the rules accept, it asks the real policy about every route. The last part tests that the rules do not
// refuse everything.
func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	engine := load(t)
	granted := map[string]int{}
	for api, kinds := range map[string][]authz.Kind{
		"velaflows": {authz.KindWorkspaceToken, authz.KindSession},
		"velocity":  {authz.KindWorkspaceKey, authz.KindPersonalKey, authz.KindOAuthToken, authz.KindSession},
	} {
		rules := issuance.Rules{Table: engine.Tables()[api]}
		for _, maker := range makers(rules, kinds) {
			m := issuance.Maker{Kind: maker.kind, Scopes: maker.scopes, Role: maker.role}
			for _, kind := range kinds {
				if kind == authz.KindSession || kind == authz.KindOAuthToken {
					continue // nobody creates these through the rules
				}
				for _, scope := range rules.ScopesOf(kind) {
					err := rules.Check(m, issuance.New{Kind: kind, Scopes: []string{scope}}, time.Now())
					if offered := slices.Contains(rules.Grantable(m, kind), scope); offered != (err == nil) {
						t.Errorf("%s: %+v: %s for %s: offered %v, but %v", api, maker, scope, kind, offered, err)
					}
					if err != nil {
						continue
					}
					granted[api+" "+string(maker.kind)+" "+maker.role]++
					created := credential{kind: kind, scopes: []string{scope}, role: maker.role}
					for _, route := range engine.Tables()[api].Routes {
						if allows(t, engine, api, created, route) && !allows(t, engine, api, maker, route) {
							t.Errorf("%s: %+v can create a %s with %s, which may %s", api, maker, kind, scope, route.Name())
						}
					}
				}
			}
		}
	}
	for _, who := range []string{
		"velaflows workspace_token ", "velocity workspace_key ", "velocity session owner", "velocity session admin", "velocity personal_key owner",
		"velocity session guest", // their own personal keys
	} {
		if granted[who] == 0 {
			t.Errorf("%s can create nothing: %v", who, granted)
		}
	}
	for who := range granted {
		if strings.Contains(who, "oauth_token") {
			t.Errorf("%s can create tokens", who)
		}
	}
}

// makers returns credentials of every kind: with each scope, with all scopes, and for a user in each role and as a stranger.
func makers(rules issuance.Rules, kinds []authz.Kind) (all []credential) {
	for _, kind := range kinds {
		valid := rules.ScopesOf(kind)
		sets := [][]string{nil, valid}
		for _, scope := range valid {
			sets = append(sets, []string{scope})
		}
		roles := []string{""}
		if kind.OfUser() {
			for role := range rules.Table.Roles {
				roles = append(roles, role)
			}
		}
		for _, scopes := range sets {
			for _, role := range roles {
				all = append(all, credential{kind, scopes, role})
			}
		}
	}
	return all
}

// Workspace tokens are managed by owners and admins, and by tokens with the override scope of the workspace. Personal keys are managed
// by their user, with a session or a key that has the override scope of users.
func TestWhoManagesTokens(t *testing.T) {
	engine := load(t)
	velocity := issuance.Rules{Table: engine.Tables()["velocity"]}
	velaflows := issuance.Rules{Table: engine.Tables()["velaflows"]}
	session := []string{"admin"}
	for name, c := range map[string]struct {
		rules issuance.Rules
		maker issuance.Maker
		kind  authz.Kind
		want  bool
	}{
		"an owner's session":                       {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "owner"}, authz.KindWorkspaceKey, true},
		"an admin's session":                       {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "admin"}, authz.KindWorkspaceKey, true},
		"a member's session":                       {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "member"}, authz.KindWorkspaceKey, false},
		"a guest's session":                        {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "guest"}, authz.KindWorkspaceKey, false},
		"an unknown role":                          {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "boss"}, authz.KindWorkspaceKey, false},
		"a stranger's session":                     {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session}, authz.KindWorkspaceKey, false},
		"a guest's personal keys":                  {velocity, issuance.Maker{Kind: authz.KindSession, Scopes: session, Role: "guest"}, authz.KindPersonalKey, true},
		"a key with the override":                  {velocity, issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"workspace:admin"}}, authz.KindWorkspaceKey, true},
		"a key without the override":               {velocity, issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"issues:write"}}, authz.KindWorkspaceKey, false},
		"a workspace's key for a user":             {velocity, issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"workspace:admin"}}, authz.KindPersonalKey, false},
		"a personal key of an owner":               {velocity, issuance.Maker{Kind: authz.KindPersonalKey, Scopes: []string{"workspace:admin"}, Role: "owner"}, authz.KindWorkspaceKey, true},
		"a personal key of a member":               {velocity, issuance.Maker{Kind: authz.KindPersonalKey, Scopes: []string{"workspace:admin"}, Role: "member"}, authz.KindWorkspaceKey, false},
		"a personal key without the override":      {velocity, issuance.Maker{Kind: authz.KindPersonalKey, Scopes: []string{"user:read"}}, authz.KindPersonalKey, false},
		"a personal key with the override":         {velocity, issuance.Maker{Kind: authz.KindPersonalKey, Scopes: session}, authz.KindPersonalKey, true},
		"an app":                                   {velocity, issuance.Maker{Kind: authz.KindOAuthToken, Scopes: []string{"admin", "workspace:admin"}, Role: "owner"}, authz.KindWorkspaceKey, false},
		"nobody":                                   {velocity, issuance.Maker{}, authz.KindWorkspaceKey, false},
		"the operator":                             {velocity, issuance.Maker{Operator: true}, authz.KindWorkspaceKey, true},
		"a VelaFlows token with admin:all":         {velaflows, issuance.Maker{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all"}}, authz.KindWorkspaceToken, true},
		"a VelaFlows token of the sandbox":         {velaflows, issuance.Maker{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all"}, Environment: authz.Sandbox}, authz.KindWorkspaceToken, false},
		"a live VelaFlows token":                   {velaflows, issuance.Maker{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all"}, Environment: authz.Live}, authz.KindWorkspaceToken, true},
		"a VelaFlows token without admin:all":      {velaflows, issuance.Maker{Kind: authz.KindWorkspaceToken, Scopes: []string{"crm:delete"}}, authz.KindWorkspaceToken, false},
		"a VelaFlows session without a known role": {velaflows, issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin:all"}, Role: "boss"}, authz.KindWorkspaceToken, false},
	} {
		if got := c.rules.Manages(c.maker, c.kind); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// If a level has no override scope, all of its scopes are necessary.
func TestTableWithoutOverrides(t *testing.T) {
	rules := issuance.Rules{Table: table.Table{
		Scopes: map[table.Level]map[string]string{table.LevelWorkspace: {"a:read": "", "a:write": ""}},
		Roles:  map[string][]string{"owner": {"a:read", "a:write"}, "guest": {"a:read"}},
	}}
	for role, want := range map[string]bool{"owner": true, "guest": false, "": false} {
		m := issuance.Maker{Kind: authz.KindSession, Scopes: []string{"a:read", "a:write"}, Role: role}
		if got := rules.Manages(m, authz.KindWorkspaceKey); got != want {
			t.Errorf("%q: %v", role, got)
		}
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	in := func(days int) *time.Time { return new(now.AddDate(0, 0, days)) }
	user := issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "owner"}
	token := issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"workspace:admin"}, Expires: in(30)}
	year := tokenlimit.Limits{MaxLifetime: 365 * 24 * time.Hour}
	for name, c := range map[string]struct {
		maker   issuance.Maker
		limits  tokenlimit.Limits
		expires *time.Time
		want    string // part of the error; empty: accepted
	}{
		"no limit":                         {user, tokenlimit.Limits{}, nil, ""},
		"in the past":                      {user, tokenlimit.Limits{}, in(-1), "already passed"},
		"now":                              {user, tokenlimit.Limits{}, in(0), "already passed"},
		"required":                         {user, tokenlimit.Limits{ExpiryRequired: true}, nil, "an expiry is required"},
		"required, and given":              {user, tokenlimit.Limits{ExpiryRequired: true}, in(9999), ""},
		"a limit, and no expiry":           {user, year, nil, "at most 365 days from now"},
		"at the limit":                     {user, year, in(365), ""},
		"above the limit":                  {user, year, in(366), "at most 365 days from now"},
		"the operator, above the limit":    {issuance.Maker{Operator: true}, year, in(366), "at most 365 days"},
		"the operator, no limit":           {issuance.Maker{Operator: true}, tokenlimit.Limits{}, nil, ""},
		"earlier than the maker's token":   {token, tokenlimit.Limits{}, in(29), ""},
		"as late as the maker's token":     {token, tokenlimit.Limits{}, in(30), ""},
		"later than the maker's token":     {token, tokenlimit.Limits{}, in(31), "expires later than itself"},
		"never, unlike the maker's token":  {token, tokenlimit.Limits{}, nil, "expires later than itself"},
		"a limit that is not whole days":   {user, tokenlimit.Limits{MaxLifetime: 90 * time.Minute}, in(1), "at most 1h30m0s"},
		"a limit of one day, with no date": {user, tokenlimit.Limits{MaxLifetime: 24 * time.Hour}, nil, "at most 1 day from now"},
	} {
		rules := issuance.Rules{Table: load(t).Tables()["velocity"], Limits: c.limits}
		err := rules.Check(c.maker, issuance.New{Kind: authz.KindWorkspaceKey, Scopes: []string{"issues:read"}, Expires: c.expires}, now)
		refusal, _ := errors.AsType[*issuance.RefusalError](err)
		if c.want == "" && err != nil || c.want != "" && (refusal == nil || refusal.Field != "expires_at" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Rules of policy authors may read the attributes of a token. So a token with attributes gives only its own attributes.
func TestAttributes(t *testing.T) {
	rules := issuance.Rules{Table: load(t).Tables()["velocity"]}
	token := issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"workspace:admin"}, Attributes: `{"cages": ["north"]}`}
	session := issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "owner"}
	for name, c := range map[string]struct {
		maker      issuance.Maker
		attributes authz.Attributes
		want       bool
	}{
		"its own":             {token, `{"cages": ["north"]}`, true},
		"none":                {token, "", false},
		"an empty object":     {token, "{}", false},
		"others":              {token, `{"cages": ["north", "south"]}`, false},
		"a session, none":     {session, "", true},
		"a session, rotation": {session, `{"cages": ["north"]}`, true},
	} {
		err := rules.Check(c.maker, issuance.New{Kind: authz.KindWorkspaceKey, Scopes: []string{"issues:read"}, Attributes: c.attributes}, time.Now())
		if refusal, _ := errors.AsType[*issuance.RefusalError](err); (err == nil) != c.want || !c.want && refusal == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The operator can restrict override scopes to some roles. Tokens have no role, so they cannot give these scopes.
func TestOverrideRoles(t *testing.T) {
	rules := issuance.Rules{Table: load(t).Tables()["velocity"], Limits: tokenlimit.Limits{OverrideRoles: []string{"owner"}}}
	for name, c := range map[string]struct {
		maker issuance.Maker
		want  bool
	}{
		"an owner":     {issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "owner"}, true},
		"an admin":     {issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "admin"}, false},
		"a token":      {issuance.Maker{Kind: authz.KindWorkspaceKey, Scopes: []string{"workspace:admin"}}, false},
		"the operator": {issuance.Maker{Operator: true}, true},
	} {
		for scope, want := range map[string]bool{"workspace:admin": c.want, "issues:write": true} {
			err := rules.Check(c.maker, issuance.New{Kind: authz.KindWorkspaceKey, Scopes: []string{scope}}, time.Now())
			if (err == nil) != want {
				t.Errorf("%s gives %s: %v", name, scope, err)
			}
		}
	}
}

func TestPresets(t *testing.T) {
	tables := load(t).Tables()
	owner := issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "owner"}
	rules := issuance.Rules{Table: tables["velocity"]}
	got := fmt.Sprint(rules.Presets(owner, authz.KindWorkspaceKey)[:2])
	want := "[{Read-only [documents:read issues:read projects:read workspace:read]} " +
		"{Read-write [documents:read documents:write issues:read issues:write projects:read projects:write workspace:read]}]"
	if got != want {
		t.Errorf("%s", got)
	}
	if presets := rules.Presets(issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "guest"}, authz.KindWorkspaceKey); len(presets) != 0 {
		t.Errorf("a guest: %v", presets)
	}
	// Two choices with the same scopes would be one choice with two names.
	readable := table.Table{Scopes: map[table.Level]map[string]string{table.LevelWorkspace: {"animals:read": "", "animals:feed": ""}}}
	presets := issuance.Rules{Table: readable}.Presets(issuance.Maker{Operator: true}, authz.KindWorkspaceKey)
	if got, want := fmt.Sprint(presets), "[{Read-only [animals:read]}]"; got != want {
		t.Errorf("a table without scopes that end in :write: %s, want %s", got, want)
	}
}

func TestUnknownScopes(t *testing.T) {
	rules := issuance.Rules{Table: load(t).Tables()["velocity"]}
	owner := issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "owner"}
	err := rules.Check(owner, issuance.New{Kind: authz.KindWorkspaceKey, Scopes: []string{"issues:read", "issues:burn", "user:read"}}, time.Now())
	refusal, ok := errors.AsType[*issuance.RefusalError](err)
	if !ok || refusal.Field != "scopes" || !slices.Equal(refusal.Scopes, []string{"issues:burn", "user:read"}) || !strings.Contains(err.Error(), "documents:read, documents:write") {
		t.Errorf("%+v", err)
	}
}
