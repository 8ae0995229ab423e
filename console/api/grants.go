package api

import (
	"net/http"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
)

// grant is what the caller's user has granted to an app.
type grant struct {
	ID         string          `json:"id"`
	AppID      string          `json:"app_id"`
	AppName    string          `json:"app_name"`
	Scopes     []string        `json:"scopes"`
	Workspaces []string        `json:"workspaces"` // slugs
	Status     registry.Status `json:"status"`
	CreatedAt  time.Time       `json:"created_at"`
	LastUsedAt *time.Time      `json:"last_used_at"`
	RevokedAt  *time.Time      `json:"revoked_at"`
}

func newGrant(g settings.Grant) grant {
	result := grant{
		ID: g.ID, AppID: g.AppID, AppName: g.AppName, Scopes: []string{}, Workspaces: []string{}, Status: g.Status, CreatedAt: g.CreatedAt,
		LastUsedAt: g.LastUsedAt, RevokedAt: g.RevokedAt,
	}
	for _, s := range g.Scopes {
		result.Scopes = append(result.Scopes, s.Name)
	}
	for _, w := range g.Workspaces {
		result.Workspaces = append(result.Workspaces, w.Slug)
	}
	return result
}

type grantList struct {
	Grants []grant `json:"grants"`
}

func (a *API) listGrants(r *http.Request, c settings.Caller) (answer, error) {
	found, err := a.settings.Grants(r.Context(), c)
	list := grantList{Grants: []grant{}}
	for _, g := range found {
		list.Grants = append(list.Grants, newGrant(g))
	}
	return answer{body: list}, err
}

func (a *API) revokeGrant(r *http.Request, c settings.Caller) (answer, error) {
	id, err := pathID(r)
	if err != nil {
		return answer{}, err
	}
	revoked, err := a.settings.RevokeGrant(r.Context(), c, id)
	return answer{body: newGrant(revoked)}, err
}
