package oauth_test

import (
	"testing"
	"time"
)

// RFC 7662: a client with a secret can introspect its own tokens, but not the tokens of other clients.
func TestIntrospection(t *testing.T) {
	i := newFixture(t)
	introspect := func(token string, header ...string) response {
		return i.send(t, "/api/oauth/introspect", form{"token": token}, header...)
	}
	tokens := i.tokens(t)
	access, credentials := tokens.text("access_token"), basic(i.public.ID, i.publicSecret.Reveal())
	r := introspect(access, "Authorization", credentials)
	exp, _ := r.body["exp"].(float64)
	if r.status != 200 || r.body["active"] != true || r.text("scope") != "issues:read issues:write" || r.text("client_id") != i.public.ID ||
		r.text("sub") != i.ada.ID || r.text("iss") != "https://velocity.quest" || time.Until(time.Unix(int64(exp), 0)).Round(time.Minute) != time.Hour {
		t.Errorf("%+v", r)
	}
	for name, r := range map[string]response{
		"another app":      introspect(access, "Authorization", basic(i.confidential.ID, i.confidentialSecret.Reveal())),
		"a refresh token":  introspect(tokens.text("refresh_token"), "Authorization", credentials),
		"an unknown token": introspect("made-up", "Authorization", credentials),
	} {
		if r.status != 200 || r.body["active"] != false || len(r.body) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := i.send(t, "/api/oauth/introspect", form{"token": access, "client_id": i.public.ID}); r.status != 401 || r.text("error") != "invalid_client" {
		t.Errorf("without a secret: %+v", r)
	}
	must(i.registry.RevokeApp(t.Context(), i.public.ID))
	if r := introspect(access, "Authorization", credentials); r.status != 401 {
		t.Errorf("a revoked app: %+v", r)
	}
}
