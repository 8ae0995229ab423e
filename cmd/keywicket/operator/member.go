package operator

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/registry"
)

type memberCommand struct {
	Set    memberSet    `cmd:"" help:"Add a user to a workspace, or change their role."`
	Remove memberRemove `cmd:"" help:"Remove a user from a workspace."`
	List   memberList   `cmd:"" help:"List members."`
}

type memberOf struct {
	Workspace string `help:"Id or slug." required:"" placeholder:"W"`
	User      string `help:"Id or email." required:"" placeholder:"U"`
}

type memberSet struct {
	memberOf
	Role string `help:"A role that the policies define. The built-in policies define owner, admin, member, guest." required:"" placeholder:"ROLE"`
	waitFlag
}

func (c *memberSet) Run(s *invocation.Invocation, r *registry.Registry, cfg config.Config) error {
	roles, err := cfg.Roles()
	if err != nil {
		return err
	}
	if !slices.Contains(roles, c.Role) {
		return invocation.Undefined(fmt.Errorf("no policy has the role %q; valid roles: %s", c.Role, strings.Join(roles, ", ")))
	}
	m, err := r.SetMember(s.Context, c.Workspace, c.User, c.Role)
	if err != nil {
		return err
	}
	return c.printOne(s, r, m, [2]string{"workspace", m.WorkspaceSlug}, [2]string{"user", m.Email}, [2]string{"role", m.Role})
}

type memberRemove struct {
	memberOf
	waitFlag
}

func (c *memberRemove) Run(s *invocation.Invocation, r *registry.Registry) error {
	if err := r.RemoveMember(s.Context, c.Workspace, c.User); err != nil {
		return err
	}
	if !s.JSON {
		fmt.Fprintf(s.Stdout, "%s is no longer a member of %s\n", c.User, c.Workspace)
	}
	if !c.Wait {
		return nil
	}
	return c.printOne(s, r, struct{}{})
}

type memberList struct {
	Workspace string `help:"Only members of this workspace: id or slug." placeholder:"W"`
}

func (c *memberList) Run(s *invocation.Invocation, r *registry.Registry) error {
	all, err := r.Members(s.Context, c.Workspace)
	if err != nil {
		return err
	}
	return invocation.PrintList(s, all, []string{"WORKSPACE", "USER", "EMAIL", "ROLE"}, func(m registry.Member) []string {
		return []string{m.WorkspaceSlug, m.UserID, m.Email, m.Role}
	})
}
