package api

import (
	"net/http"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
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
