package pages

import (
	"log/slog"

	"github.com/keywicket/keywicket/console/pages/titles"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
)

// grantPages are the pages of the apps that a user has authorized.
type grantPages struct {
	*site
	section section
}

// addGrants adds the pages of authorized apps.
func (s *site) addGrants() {
	g := &grantPages{s, s.addSection(titles.AuthorizedApps, true)}
	s.page(g.section, "", g.list)
	s.form(g.section, "/{id}/revoke", g.showRevoke, g.revoke)
}

// grantRow is a grant with its scopes in groups.
type grantRow struct {
	settings.Grant
	Account, InWorkspaces []settings.Scope
}

func newGrantRow(g settings.Grant) grantRow {
	row := grantRow{Grant: g}
	for _, scope := range g.Scopes {
		if scope.Workspace {
			row.InWorkspaces = append(row.InWorkspaces, scope)
		} else {
			row.Account = append(row.Account, scope)
		}
	}
	return row
}

// grantList is the data of the template grant_list.html.
type grantList struct {
	Allowed bool // the user may manage grants
	Rows    []grantRow
	Revoked *grantRow // the user has just revoked this grant
}

func (g *grantPages) list(v *visit) error {
	l := grantList{Allowed: v.Caller.MayManageApps() == nil}
	if !l.Allowed {
		return v.render("grant_list.html", l)
	}
	if id := v.URL.Query().Get("revoked"); id != "" {
		if grant, err := g.settings.Grant(v.Context(), v.Caller, id); err == nil && grant.Status == registry.Revoked {
			row := newGrantRow(grant)
			l.Revoked = &row
		}
	}
	grants, err := g.settings.Grants(v.Context(), v.Caller)
	if err != nil {
		return err
	}
	for _, grant := range grants {
		l.Rows = append(l.Rows, newGrantRow(grant))
	}
	return v.render("grant_list.html", l)
}

// grantPage is the data of the template grant_revoke.html.
type grantPage struct{ Grant grantRow }

func (g *grantPages) showRevoke(v *visit) error {
	grant, err := g.settings.Grant(v.Context(), v.Caller, v.PathValue("id"))
	if err != nil {
		return err
	}
	return v.render("grant_revoke.html", grantPage{newGrantRow(grant)})
}

func (g *grantPages) revoke(v *visit) error {
	grant, err := g.settings.RevokeGrant(v.Context(), v.Caller, v.PathValue("id"))
	if err != nil {
		return err
	}
	g.log.LogAttrs(v.Context(), slog.LevelInfo, "a user has revoked a grant", slog.String("api", g.api.Name), slog.String("grant_id", grant.ID),
		slog.String("client_id", grant.AppID), slog.String("user_id", v.User.ID))
	return v.redirect(v.Link("", "revoked", grant.ID))
}
