package operator

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/store/registry"
)

type workspaceCommand struct {
	Create workspaceCreate `cmd:"" help:"Create a workspace."`
	Set    workspaceSet    `cmd:"" help:"Change a workspace's attributes or its leaver rule."`
	List   workspaceList   `cmd:"" help:"List all workspaces."`
}

type workspaceCreate struct {
	ID   string `help:"24 lower-case hex digits. Default: a generated id." name:"id" placeholder:"HEX24"`
	Slug string `help:"Short name for headers and URLs: a-z, 0-9 and the hyphen." required:"" placeholder:"SLUG"`
	Name string `help:"Display name." required:"" placeholder:"NAME"`
	newAttributes
}

func (c *workspaceCreate) Run(s *invocation.Invocation, r *registry.Registry) error {
	w, err := r.CreateWorkspace(s.Context, registry.Workspace{
		ID: c.ID, Slug: c.Slug, Name: c.Name, Attributes: authz.Attributes(c.Attributes),
	})
	if err != nil {
		return err
	}
	return invocation.PrintOne(s, w, [2]string{"id", w.ID}, [2]string{"slug", w.Slug}, [2]string{"name", w.Name})
}

type workspaceSet struct {
	Workspace  string         `arg:"" help:"Id or slug."`
	Attributes attributesFlag `help:"Attributes for policies: a JSON object. It replaces the current object. It must not contain secrets, because the list commands show it." required:"" xor:"change" placeholder:"JSON"`
	LeaverRule string         `help:"What happens to the workspace's tokens whose creator leaves: keep (nothing), mark (lists mark them) or end (they are revoked)." required:"" xor:"change" enum:"keep,mark,end" placeholder:"RULE"`
	waitFlag
}

func (c *workspaceSet) Run(s *invocation.Invocation, r *registry.Registry) error {
	var w registry.Workspace
	var err error
	changed := [2]string{"leaver rule", c.LeaverRule}
	if c.LeaverRule != "" {
		w, err = r.SetLeaverRule(s.Context, c.Workspace, registry.LeaverRule(c.LeaverRule))
	} else {
		w, err = r.SetWorkspaceAttributes(s.Context, c.Workspace, authz.Attributes(c.Attributes))
		changed = [2]string{"attributes", w.Attributes.JSON()}
	}
	if err != nil {
		return err
	}
	return c.printOne(s, r, w, [2]string{"id", w.ID}, [2]string{"slug", w.Slug}, changed)
}

type workspaceList struct{}

func (workspaceList) Run(s *invocation.Invocation, r *registry.Registry) error {
	all, err := r.Workspaces(s.Context)
	if err != nil {
		return err
	}
	return invocation.PrintList(s, all, []string{"ID", "SLUG", "NAME", "CREATED", "LEAVER RULE"}, func(w registry.Workspace) []string {
		return []string{w.ID, w.Slug, w.Name, invocation.FormatTime(&w.CreatedAt), string(w.LeaverRule)}
	})
}
