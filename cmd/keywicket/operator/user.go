package operator

import (
	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/store/registry"
)

type userCommand struct {
	Create userCreate `cmd:"" help:"Create a user."`
	Set    userSet    `cmd:"" help:"Replace a user's attributes."`
	List   userList   `cmd:"" help:"List all users."`
}

type userCreate struct {
	Email string `help:"Email address." required:"" placeholder:"EMAIL"`
	ID    string `help:"The user's id at the identity provider (Supabase: the claim sub). Default: a generated id." name:"id" placeholder:"ID"`
	newAttributes
}

func (c *userCreate) Run(s *invocation.Invocation, r *registry.Registry) error {
	u, err := r.CreateUser(s.Context, registry.User{ID: c.ID, Email: c.Email, Attributes: authz.Attributes(c.Attributes)})
	if err != nil {
		return err
	}
	return invocation.PrintOne(s, u, [2]string{"id", u.ID}, [2]string{"email", u.Email})
}

type userSet struct {
	User string `arg:"" help:"Id or email."`
	setAttributes
}

func (c *userSet) Run(s *invocation.Invocation, r *registry.Registry) error {
	u, err := r.SetUserAttributes(s.Context, c.User, authz.Attributes(c.Attributes))
	if err != nil {
		return err
	}
	return c.printOne(s, r, u, [2]string{"id", u.ID}, [2]string{"email", u.Email}, [2]string{"attributes", u.Attributes.JSON()})
}

type userList struct{}

func (userList) Run(s *invocation.Invocation, r *registry.Registry) error {
	all, err := r.Users(s.Context)
	if err != nil {
		return err
	}
	return invocation.PrintList(s, all, []string{"ID", "EMAIL", "CREATED"}, func(u registry.User) []string {
		return []string{u.ID, u.Email, invocation.FormatTime(&u.CreatedAt)}
	})
}
