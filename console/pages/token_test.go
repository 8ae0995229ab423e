package pages_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// A user creates a token, finds it in the list, rotates it and revokes it.
func TestLifeOfAToken(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name, path, noun, prefix string
		b                        *userBrowser
		scopes                   string
	}{
		{"workspace tokens", tokensPath, "token", "sk_test_", f.browser(f.velaflows, f.Ada), "inbox:read crm:read"},
		{"workspace keys", keysPath, "key", "vel_", f.browser(f.velocity, f.Ada), "issues:read"},
		{"personal keys", personalPath, "key", "velu_", f.browser(f.velocity, f.Bob), "user:read issues:write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			requirePage(t, c.b.get(t, c.path), http.StatusOK, "There are no "+c.noun+"s yet.")
			created := c.b.submit(t, c.path+"/new", "name", "Export", "prefix", c.prefix, "scope", c.scopes, "expiry", "30")
			requirePage(t, created, http.StatusOK, "it will only be shown once", "Export", strings.Fields(c.scopes)[0])
			secret := created.secret()
			if !strings.HasPrefix(secret, c.prefix) {
				t.Fatalf("the secret is %q", secret)
			}
			token := storetest.Must(f.TokenByDigest(t.Context(), authz.Secret(secret).Digest()))
			if token.Status != registry.Active || token.Name != "Export" || strings.Join(token.Scopes, " ") == "" || token.ExpiresAt == nil {
				t.Errorf("%+v", token)
			}
			list := c.b.get(t, c.path)
			requirePage(t, list, http.StatusOK, "Export", token.Prefix+"…", "Never")
			if strings.Contains(list.text, secret) {
				t.Error("the list shows the secret")
			}
			rotated := c.b.submit(t, c.path+"/"+token.ID+"/rotate", "overlap", "1h")
			requirePage(t, rotated, http.StatusOK, "it will only be shown once", "The old secret", "works until")
			if again := rotated.secret(); again == secret || !strings.HasPrefix(again, c.prefix) {
				t.Errorf("the new secret is %q", again)
			}
			confirm := c.b.get(t, c.path+"/"+token.ID+"/revoke")
			requirePage(t, confirm, http.StatusOK, "Revoke <bdi>Export</bdi>?", token.Prefix, "will be denied immediately", "No use in the last 7 days is recorded")
			revoked := c.b.submit(t, c.path+"/"+token.ID+"/revoke")
			requirePage(t, revoked, http.StatusSeeOther)
			requirePage(t, c.b.get(t, revoked.location), http.StatusOK, "is revoked", "Revoked")
			if token = storetest.Must(f.Token(t.Context(), token.ID)); token.Status != registry.Revoked {
				t.Errorf("%+v", token)
			}
		})
	}
}

// Postgres refuses some texts, such as a zero byte. A text that cannot be an id is an id that does not exist, and not a failure.
func TestTextsThatAreNoIDs(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velocity, f.Ada)
	for _, page := range []string{keysPath + "/*/revoke", keysPath + "/*/rotate", "/settings/oauth-apps/*", "/settings/oauth-apps/*/delete", "/settings/account/authorized-apps/*/revoke"} {
		for _, id := range []string{"%00", "%ff", "a%00b", "nothing"} {
			requirePage(t, b.get(t, strings.Replace(page, "*", id, 1)), http.StatusNotFound)
		}
	}
}
