package oauth_test

import (
	"net/http"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// RFC 7009: the revocation of a refresh token ends the whole grant. The revocation of an access token affects only this token. An
// app cannot revoke the token of another app. For an unknown token, the endpoint returns no error.
func TestRevocation(t *testing.T) {
	i := newFixture(t)
	isActive := func(r response) bool {
		_, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token")))
		return err == nil
	}
	revoke := func(token string, more ...string) response {
		f := form{"client_id": i.public.ID, "token": token}
		for n := 0; n < len(more); n += 2 {
			f = f.withValue(more[n], more[n+1])
		}
		return i.send(t, "/api/oauth/revoke", f)
	}
	one := i.tokens(t)
	if r := revoke(one.text("access_token"), "token_type_hint", "refresh_token"); r.status != http.StatusOK || isActive(one) {
		t.Errorf("an access token: %+v, active: %t", r, isActive(one))
	}
	again := i.send(t, "/api/oauth/token", form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": one.text("refresh_token")})
	if again.status != http.StatusOK {
		t.Errorf("the grant must stay valid: %+v", again)
	}
	if r := revoke(again.text("refresh_token"), "token_type_hint", "nonsense"); r.status != http.StatusOK || isActive(again) {
		t.Errorf("a refresh token: %+v, active: %t", r, isActive(again))
	}
	if r := i.send(t, "/api/oauth/token", form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": again.text("refresh_token")}); r.text("error") != "invalid_grant" {
		t.Errorf("a refresh token that was revoked: %+v", r)
	}
	if r := revoke("made-up"); r.status != http.StatusOK {
		t.Errorf("an unknown token: %+v", r)
	}
	if r := revoke(""); r.status != 400 || r.text("error") != "invalid_request" {
		t.Errorf("no token: %+v", r)
	}
	for _, token := range []string{"access_token", "refresh_token"} {
		publicTokens := i.tokens(t)
		r := i.send(t, "/api/oauth/revoke", form{"token": publicTokens.text(token), "client_id": i.confidential.ID, "client_secret": i.confidentialSecret.Reveal()})
		if r.status != 400 || r.text("error") != "invalid_grant" || !isActive(publicTokens) {
			t.Errorf("another app's %s: %+v, active: %t", token, r, isActive(publicTokens))
		}
	}
	if r := i.send(t, "/api/oauth/revoke", form{"token": "x", "client_id": i.confidential.ID}); r.status != 401 {
		t.Errorf("the confidential app without its secret: %+v", r)
	}
}
