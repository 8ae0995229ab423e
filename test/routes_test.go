package test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/table"
)

// documentedAPI is an API's table, written a second time and in another form than its data.yaml. The tests compare the
// policies with it, and the matrix checks exactly these routes. "{}" is one path segment.
type documentedAPI struct {
	descriptions map[string]string   // scope → the words of the API's own document
	workspace    map[string][]string // scope → the workspace-level routes that need it
	user         map[string][]string // scope → the user-level routes that need it
	base         string              // prefix of the paths above
	public       []string            // complete paths, as in unlisted
	unlisted     []string            // paths similar to those above that no rule lists

	prefixes []string // of credentials
	override string   // covers every scope of a workspace-level route
}

// headerNames: API → the header that names a workspace, as the document writes it.
var headerNames = map[string]string{"velaflows": "x-workspace-id", "velocity": "X-Workspace-Slug"}

var documented = map[string]documentedAPI{
	"velaflows": {
		prefixes: []string{"sk_live_", "sk_test_"}, override: "admin:all",
		base: "/api/v1/",
		workspace: map[string][]string{
			"inbox:read":      {"GET inbox/conversations", "GET inbox/conversations/{}", "GET inbox/conversations/{}/messages"},
			"inbox:write":     {"POST inbox/conversations/{}/messages", "PATCH inbox/conversations/{}"},
			"crm:read":        {"GET crm/leads", "GET crm/leads/{}", "GET crm/pipelines", "GET crm/pipelines/{}/stages"},
			"crm:create":      {"POST crm/leads"},
			"crm:update":      {"PATCH crm/leads/{}"},
			"crm:delete":      {"DELETE crm/leads/{}"},
			"contacts:read":   {"GET contacts", "GET contacts/{}"},
			"contacts:write":  {"POST contacts", "PATCH contacts/{}"},
			"channels:read":   {"GET channels", "GET channels/{}"},
			"channels:write":  {"POST channels/{}/messages", "PUT channels/{}"},
			"workflows:read":  {"GET workflows", "GET workflows/{}", "GET workflows/{}/executions"},
			"workflows:write": {"POST workflows", "PUT workflows/{}", "POST workflows/{}/trigger"},
			"webhooks:read":   {"GET webhooks", "GET webhooks/{}"},
			"webhooks:write":  {"POST webhooks", "PATCH webhooks/{}", "DELETE webhooks/{}"},
			"ai:read":         {"GET ai/settings", "POST ai/query"},
			"ai:write":        {"PUT ai/settings", "POST ai/training"},
			"tags:read":       {"GET tags"},
			"tags:write":      {"POST tags", "PATCH tags/{}", "DELETE tags/{}"},
			"analytics:read":  {"GET analytics/reports", "GET analytics/reports/{}"},
			"admin:all":       {"GET admin/audit", "POST admin/members"},
		},
		public:   []string{"GET /healthz"},
		unlisted: []string{"GET /api/v1/secrets", "DELETE /api/v1/contacts", "GET /api/v1/contacts/", "POST /healthz"},
		descriptions: map[string]string{
			"inbox:read":      "List and view conversations, messages",
			"inbox:write":     "Reply to conversations, assign agents, update status",
			"crm:read":        "View leads, pipelines, stages",
			"crm:create":      "Create new leads",
			"crm:update":      "Update existing leads, move between stages",
			"crm:delete":      "Delete leads",
			"contacts:read":   "View customers and their properties",
			"contacts:write":  "Create and update customers",
			"channels:read":   "View connected channels and their status",
			"channels:write":  "Send messages, manage channel configurations",
			"workflows:read":  "View workflow definitions and execution history",
			"workflows:write": "Create, update, and trigger workflows",
			"webhooks:read":   "View webhook subscriptions",
			"webhooks:write":  "Create and manage webhook subscriptions",
			"ai:read":         "Query the knowledge base, view AI settings",
			"ai:write":        "Update AI training data and configuration",
			"tags:read":       "View tags",
			"tags:write":      "Create, update, and delete tags",
			"analytics:read":  "View analytics and reports",
			"admin:all":       "Full administrative access (use sparingly)",
		},
	},
	"velocity": {
		prefixes: []string{"vel_", "velu_"}, override: "workspace:admin",
		base: "/api/",
		workspace: map[string][]string{
			"issues:read":     {"GET issues", "GET issues/{}", "GET issues/{}/comments"},
			"issues:write":    {"POST issues", "PATCH issues/{}", "DELETE issues/{}", "POST issues/{}/comments"},
			"projects:read":   {"GET projects", "GET projects/{}", "GET projects/{}/cycles", "GET projects/{}/milestones"},
			"projects:write":  {"POST projects", "PATCH projects/{}"},
			"documents:read":  {"GET documents", "GET documents/{}"},
			"documents:write": {"POST documents", "PATCH documents/{}"},
			"workspace:read":  {"GET workspace", "GET workspace/members"},
			"workspace:admin": {"PATCH workspace"},
		},
		user: map[string][]string{
			"user:read":         {"GET user"},
			"user:write":        {"PATCH user"},
			"workspaces:list":   {"GET workspaces"},
			"workspaces:create": {"POST workspaces"},
			"workspaces:update": {"PATCH workspaces/{}"},
			"workspaces:delete": {"DELETE workspaces/{}"},
			"admin":             nil, // overrides the others, and has no route of its own
		},
		public: []string{
			"GET /oauth/consent", "POST /oauth/consent", "POST /api/oauth/token", "POST /api/oauth/revoke",
			"POST /api/oauth/introspect", "GET /.well-known/oauth-authorization-server", "GET /healthz",
		},
		unlisted: []string{"GET /api/secrets", "DELETE /api/workspace", "GET /api/issues/", "PUT /oauth/consent"},
		descriptions: map[string]string{
			"issues:read":       "Read issues and comments",
			"issues:write":      "Create, update, delete issues",
			"projects:read":     "Read projects, cycles, milestones",
			"projects:write":    "Create and modify projects",
			"documents:read":    "Read documents",
			"documents:write":   "Create and modify documents",
			"workspace:read":    "Read workspace settings and members",
			"workspace:admin":   "Manage workspace settings",
			"user:read":         "Read your own profile",
			"user:write":        "Update your own profile",
			"workspaces:list":   "List workspaces you belong to",
			"workspaces:create": "Create new workspaces",
			"workspaces:update": "Update workspace settings",
			"workspaces:delete": "Delete workspaces",
			"admin":             "Full user-level access",
		},
	},
}

// documentedRoute is one route. Its scope is empty if the route is public or not listed.
type documentedRoute struct{ method, path, scope, level string }

// The levels of routes: two need scopes, two do not.
const (
	workspaceLevel = "workspace"
	userLevel      = "user"
	public         = "public"
	unlisted       = "unlisted"
)

func (d documentedAPI) routes() []documentedRoute {
	var all []documentedRoute
	add := func(level, scope, base string, routes []string) {
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			all = append(all, documentedRoute{method, base + path, scope, level})
		}
	}
	add(public, "", "", d.public)
	add(unlisted, "", "", d.unlisted)
	for _, scope := range slices.Sorted(maps.Keys(d.workspace)) {
		add(workspaceLevel, scope, d.base, d.workspace[scope])
	}
	for _, scope := range slices.Sorted(maps.Keys(d.user)) {
		add(userLevel, scope, d.base, d.user[scope])
	}
	return all
}

func TestPoliciesHoldExactlyTheDocumentedRoutes(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(world.tables)), slices.Sorted(maps.Keys(documented)); !slices.Equal(got, want) {
		t.Fatalf("the policies serve the APIs %v, not %v", got, want)
	}
	parameter := regexp.MustCompile(`\{[^}]*\}`)
	for name, d := range documented {
		t.Run(name, func(t *testing.T) {
			left := make(map[documentedRoute]bool)
			for _, r := range d.routes() {
				if r.level != unlisted {
					left[r] = true
				}
			}
			for _, r := range world.tables[name].Routes {
				level := string(r.Level)
				switch {
				case r.Public:
					level = public
				case level == "":
					level = workspaceLevel
				}
				route := documentedRoute{r.Method, parameter.ReplaceAllString(r.Path, "{}"), strings.Join(r.Scopes, " "), level}
				if !left[route] {
					t.Errorf("the policies have %+v, which the documents lack, or have it twice", route)
				}
				delete(left, route)
			}
			for r := range left {
				t.Errorf("the policies lack %+v", r)
			}
		})
	}
}

func TestCataloguesHoldExactlyTheDocumentedScopes(t *testing.T) {
	for name, d := range documented {
		t.Run(name, func(t *testing.T) {
			for level, routes := range map[table.Level]map[string][]string{
				table.LevelWorkspace: d.workspace, table.LevelUser: d.user,
			} {
				want := make(map[string]string, len(routes))
				for scope := range routes {
					want[scope] = d.descriptions[scope]
				}
				if got := world.tables[name].Scopes[level]; !maps.Equal(got, want) {
					t.Errorf("scopes of the level %s:\n got %v\nwant %v", level, got, want)
				}
			}
			if got := len(d.workspace) + len(d.user); got != len(d.descriptions) {
				t.Errorf("%d scopes have routes, %d a description", got, len(d.descriptions))
			}
		})
	}
}
