package api

import (
	"net/http"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

type workspaceList struct {
	Workspaces []console.Membership `json:"workspaces"`
}

// listWorkspaces lists the workspaces of the caller's user.
func (a *API) listWorkspaces(r *http.Request, c settings.Caller) (answer, error) {
	if c.User.ID == "" {
		return answer{}, errNoUser
	}
	list, err := a.store.Memberships(r.Context(), c.User.ID)
	return answer{body: workspaceList{list}}, err
}

type workspace struct {
	ID         string              `json:"id"`
	Slug       string              `json:"slug"`
	Name       string              `json:"name"`
	CreatedAt  time.Time           `json:"created_at"`
	LeaverRule registry.LeaverRule `json:"leaver_rule"`
}

func (a *API) readWorkspace(r *http.Request, c settings.Caller) (answer, error) {
	w, err := a.settings.Workspace(r.Context(), c)
	return answer{body: workspace{w.ID, w.Slug, w.Name, w.CreatedAt, w.LeaverRule}}, err
}

type workspaceRequest struct {
	LeaverRule registry.LeaverRule `json:"leaver_rule"`
}

func (a *API) changeWorkspace(r *http.Request, c settings.Caller) (answer, error) {
	var change workspaceRequest
	if err := readBody(r, &change); err != nil {
		return answer{}, err
	}
	if err := a.settings.SetLeaverRule(r.Context(), c, change.LeaverRule); err != nil {
		return answer{}, err
	}
	return a.readWorkspace(r, c)
}
