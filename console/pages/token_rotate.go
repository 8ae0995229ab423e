package pages

import (
	"crypto/rand"
	"log/slog"
	"slices"
	"time"

	"github.com/keywicket/keywicket/console/pages/chart"
	"github.com/keywicket/keywicket/store/registry"
)

// tokenRotate is the data of the template token_rotate.html.
type tokenRotate struct {
	*tokenPages
	Token    registry.Token
	Chart    chart.Chart
	Overlaps []string
	Overlap  string // the chosen one
	Key      string // idempotency key
}

// overlaps are the times in which the old and the new secret are both valid. The template has their texts.
var overlaps = []string{"0s", "1h", "24h", "168h"}

// showRotate writes the form.
func (t *tokenPages) showRotate(v *visit) error {
	token, days, err := t.tokenWithUse(v)
	if err != nil {
		return err
	}
	r := tokenRotate{tokenPages: t, Token: token, Chart: chart.New(days), Overlaps: overlaps, Overlap: "24h", Key: rand.Text()}
	if v.PostForm != nil {
		r.Overlap = v.PostForm.Get("overlap")
		if key := v.PostForm.Get("key"); key != "" && v.Alert != "used" {
			r.Key = key
		}
	}
	return v.render("token_rotate.html", r)
}

// rotate creates a token with a new secret, and shows the secret.
func (t *tokenPages) rotate(v *visit) error {
	value, key := v.PostForm.Get("overlap"), v.PostForm.Get("key")
	if key == "" || !slices.Contains(overlaps, value) {
		return errNoOverlap
	}
	duration, err := time.ParseDuration(value)
	if err != nil {
		return err
	}
	old, err := t.settings.Token(v.Context(), v.Caller, t.owner, v.PathValue("id"))
	if err != nil {
		return err
	}
	created, err := t.settings.RotateToken(v.Context(), v.Caller, t.owner, v.PathValue("id"), duration, key)
	if err != nil {
		return err
	}
	// The new secret is shown in any case, even if this query fails.
	if changed, err := t.settings.Token(v.Context(), v.Caller, t.owner, old.ID); err == nil {
		old = changed
	}
	if !created.Repeated {
		t.logChange(v, "a user has rotated a token", created.Object, slog.String("old_token_id", old.ID))
	}
	return t.showCreated(v, created, &old)
}
