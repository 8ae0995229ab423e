package settings_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/oauthapp"
	"github.com/keywicket/keywicket/store/storetest"
)

// A search contains at most the visible part of a secret, whatever the user pastes. Other texts find what they found.
func TestVisiblePart(t *testing.T) {
	api := settings.API{Formats: []authz.CredentialFormat{storetest.Vel, storetest.Velu}}
	key, body := storetest.Vel.NewKey().Reveal(), strings.Repeat("aB3d", 10)
	for text, want := range map[string]string{
		key: key[:12], "Bearer " + key: key[:12], "KEY=" + key + "\n": key[:12], `"` + key + `"`: key[:12],
		"vel_0123456789abcdef": "vel_01234567",                                                          // an imported key
		"velo_" + body:         "velo_aB3daB3daB3", "Bearer sk_live_" + body: "Bearer sk_live_aB3daB3d", // of apps, of another API
		strings.Repeat("A2", 26):                       "A2A2A2A2A2A2A2A2",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0." + body: "eyJhbGciOiJIUzI1",
		"vel_schlüssel_des_jahres":                     "vel_schlüssel_des_jahres", "": "", "CI": "CI", key[:12]: key[:12], "level_of_detail in Berlin": "level_of_detail in Berlin",
		"Ein Schlüssel für Donaudampfschifffahrtsgesellschaft": "Ein Schlüssel für Donaudampfschiff",
	} {
		part := api.VisiblePart(text)
		if part != want || api.VisiblePart(part) != part {
			t.Errorf("%q: %q, not %q", text, part, want)
		}
	}
	if secret := oauthapp.NewSecret().Reveal(); api.VisiblePart(secret) != secret[:16] {
		t.Errorf("the secret of an app: %q", api.VisiblePart(secret))
	}
}
