package main

import "github.com/keywicket/keywicket/store"

type workspaceCommand struct {
	Create workspaceCreate `cmd:"" help:"Create a workspace."`
	List   workspaceList   `cmd:"" help:"List all workspaces."`
}

type workspaceCreate struct {
	ID   string `help:"24 lower-case hex digits; made up when absent." name:"id" placeholder:"HEX24"`
	Slug string `help:"Short name for headers and URLs: a-z, 0-9 and -." required:"" placeholder:"SLUG"`
	Name string `help:"Name for people." required:"" placeholder:"NAME"`
}

func (c *workspaceCreate) Run(s *invocation, r *store.Registry) error {
	w, err := r.CreateWorkspace(s.ctx, store.Workspace{ID: c.ID, Slug: c.Slug, Name: c.Name})
	if err != nil {
		return err
	}
	return printOne(s, w, [2]string{"id", w.ID}, [2]string{"slug", w.Slug}, [2]string{"name", w.Name})
}

type workspaceList struct{}

func (workspaceList) Run(s *invocation, r *store.Registry) error {
	all, err := r.Workspaces(s.ctx)
	if err != nil {
		return err
	}
	return printList(s, all, []string{"ID", "SLUG", "NAME", "CREATED"}, func(w store.Workspace) []string {
		return []string{w.ID, w.Slug, w.Name, when(&w.CreatedAt)}
	})
}
