package pages

import (
	"log/slog"
	"net/http"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
)

// tokenPages are the pages of one kind of owner: the tokens of a workspace, or the keys of a user.
type tokenPages struct {
	*site
	section section
	owner   settings.Owner
}

// addTokens adds the pages for a kind of owner. Without a title, it adds nothing.
func (s *site) addTokens(title string, owner settings.Owner) {
	if title == "" {
		return
	}
	t := &tokenPages{s, s.addSection(title, owner == settings.OfUser), owner}
	s.page(t.section, "", t.list)
	s.handle(http.MethodPost, t.section, "", t.search)
	s.form(t.section, "/new", t.showCreate, t.create)
	if owner == settings.OfWorkspace {
		s.form(t.section, "/leavers", t.showLeavers, t.setLeavers)
	}
	s.form(t.section, "/{id}/rotate", t.showRotate, t.rotate)
	s.form(t.section, "/{id}/revoke", t.showRevoke, t.revoke)
}

// Noun is the word for one of these tokens: token or key.
func (t *tokenPages) Noun() string {
	for _, f := range t.api.FormatsOf(t.owner) {
		if f.Kind == authz.KindWorkspaceToken {
			return "token"
		}
	}
	return "key"
}

// tokenWithUse returns the token that the path names, and its use.
func (t *tokenPages) tokenWithUse(v *visit) (registry.Token, []console.Day, error) {
	token, err := t.settings.Token(v.Context(), v.Caller, t.owner, v.PathValue("id"))
	if err != nil {
		return token, nil, err
	}
	days, err := t.settings.Use(v.Context(), v.Caller, t.owner, token.ID, console.DaysOfUse)
	return token, days, err
}

// logChange logs what a user has done with a token.
func (t *tokenPages) logChange(v *visit, message string, token registry.Token, more ...slog.Attr) {
	attributes := append([]slog.Attr{
		slog.String("api", t.api.Name), slog.String("token_id", token.ID), slog.String("user_id", v.User.ID),
		slog.String("workspace_id", v.Caller.Workspace.ID),
	}, more...)
	t.log.LogAttrs(v.Context(), slog.LevelInfo, message, attributes...)
}

// createdToken is the data of the template token_created.html.
type createdToken struct {
	*tokenPages
	Token   registry.Token
	Secret  string          // empty: the token was created by an earlier request
	Rotated *registry.Token // the token that the new token replaces
}

// showCreated writes the page with the secret of a new token. The secret is in no other response.
func (t *tokenPages) showCreated(v *visit, created settings.Created[registry.Token], rotated *registry.Token) error {
	c := createdToken{tokenPages: t, Token: created.Object, Rotated: rotated}
	if !created.Repeated {
		c.Secret = created.Secret.Reveal()
	}
	return v.render("token_created.html", c)
}
