package pages

import (
	"time"

	"github.com/keywicket/keywicket/console/pages/chart"
	"github.com/keywicket/keywicket/store/registry"
)

// tokenRevoke is the data of the template token_revoke.html.
type tokenRevoke struct {
	*tokenPages
	Token registry.Token
	Chart chart.Chart
	// Recent is the number of allowed requests of the last 7 days. The sidecars write these numbers later than the last use, so
	// RecentlyUsed can be true when Recent is 0.
	Recent       int64
	RecentlyUsed bool
}

// showRevoke asks the user to confirm the revocation.
func (t *tokenPages) showRevoke(v *visit) error {
	const week = 7
	token, days, err := t.tokenWithUse(v)
	if err != nil {
		return err
	}
	r := tokenRevoke{tokenPages: t, Token: token, Chart: chart.New(days)}
	r.RecentlyUsed = token.LastUsedAt != nil && time.Since(*token.LastUsedAt) < week*24*time.Hour
	for _, d := range days[len(days)-week:] {
		r.Recent += d.Allowed
	}
	return v.render("token_revoke.html", r)
}

// revoke revokes the token.
func (t *tokenPages) revoke(v *visit) error {
	token, err := t.settings.RevokeToken(v.Context(), v.Caller, t.owner, v.PathValue("id"))
	if err != nil {
		return err
	}
	t.logChange(v, "a user has revoked a token", token)
	return v.redirect(v.Link("", "revoked", token.ID))
}
