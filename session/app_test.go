package session_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/test/supabase"
)

// If an identity provider issues a token to an app, the token has the same claims as a token of the user's own session. Only
// tokens of the product's own apps are accepted. The result does not depend on the token's scopes, or on which claim contains the
// app's id.
func TestAppTokenIsNoSession(t *testing.T) {
	const web, other = "9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d", "11111111-2222-3333-4444-555555555555"
	noClientIDs := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)
	ownClientIDs := verifier(t, authz.SessionFormat{HS256Secret: secret, ClientIDs: []string{"mobile", web}}, nil)
	for name, c := range map[string]struct {
		claims                          fields
		denialWithoutIDs, denialWithIDs authz.Reason // without client_ids, and with the ids of the product's own apps
	}{
		"a session":                      {nil, "", ""},
		"with a scope":                   {fields{"scope": "openid"}, "", ""},
		"the product's own app":          {fields{"client_id": web, "scope": "openid email"}, authz.ReasonAppToken, ""},
		"the product's other app":        {fields{"client_id": "mobile"}, authz.ReasonAppToken, ""},
		"another app":                    {fields{"client_id": other, "scope": "openid"}, authz.ReasonAppToken, authz.ReasonAppToken},
		"without scopes":                 {fields{"client_id": other}, authz.ReasonAppToken, authz.ReasonAppToken},
		"with the scope admin":           {fields{"client_id": other, "scope": "admin"}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an id with the same start":      {fields{"client_id": web + "0"}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an id in upper case":            {fields{"client_id": strings.ToUpper(web)}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an id with a space":             {fields{"client_id": web + " "}, authz.ReasonAppToken, authz.ReasonAppToken},
		"the empty id":                   {fields{"client_id": ""}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an id of null":                  {fields{"client_id": json.RawMessage("null")}, authz.ReasonMalformed, authz.ReasonMalformed},
		"a list of ids":                  {fields{"client_id": []string{web}}, authz.ReasonMalformed, authz.ReasonMalformed},
		"an authorized party":            {fields{"azp": web}, authz.ReasonAppToken, ""},
		"another authorized party":       {fields{"azp": other}, authz.ReasonAppToken, authz.ReasonAppToken},
		"two ids, one is of another app": {fields{"client_id": web, "azp": other}, authz.ReasonAppToken, authz.ReasonAppToken},
		"two ids of the product's apps":  {fields{"client_id": web, "azp": "mobile"}, authz.ReasonAppToken, ""},
		"an actor":                       {fields{"act": fields{"sub": "support"}}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an empty actor, its own app":    {fields{"act": nil, "client_id": web}, authz.ReasonAppToken, ""},
		"client_id in upper case":        {fields{"CLIENT_ID": web}, authz.ReasonAppToken, authz.ReasonAppToken},
		"an actor of null":               {fields{"act": json.RawMessage("null")}, authz.ReasonAppToken, authz.ReasonAppToken},
	} {
		token := sign(jose.HS256, []byte(secret), "", claimsWith(c.claims))
		for range 2 { // in the second run, the token may be cached
			for v, want := range map[string]authz.Reason{"none": c.denialWithoutIDs, "own": c.denialWithIDs} {
				answer, err := map[string]authz.Sessions{"none": noClientIDs, "own": ownClientIDs}[v].Verify(t.Context(), api, token)
				if err != nil || answer.Denial != want || (want == "") != (answer.Session.UserID == user) {
					t.Errorf("%s, client_ids %s: %+v, %v, not %q", name, v, answer, err, want)
				}
				if want == authz.ReasonAppToken && !strings.Contains(answer.Detail, "session.client_ids") {
					t.Errorf("%s: the detail does not contain the configuration key: %q", name, answer.Detail)
				}
			}
		}
	}
	// Other errors of a token take precedence over the denial of an app's token.
	for claims, want := range map[string]authz.Reason{"exp": authz.ReasonExpired, "iss": authz.ReasonUnknown} {
		change := map[string]fields{"exp": {"exp": 1}, "iss": {"iss": "https://evil.example"}}[claims]
		change["client_id"] = other
		if _, denial, err := verify(t, ownClientIDs, api, sign(jose.HS256, []byte(secret), "", claimsWith(change))); err != nil || denial != want {
			t.Errorf("%s: %q, %v", claims, denial, err)
		}
	}
}

// The policy receives the value of the claim aal as the assurance level. If the claim is missing, the level is empty.
func TestAssuranceLevelReachesThePolicy(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)
	for name, c := range map[string]struct {
		aal    any
		want   string
		denial authz.Reason
	}{
		"one factor":    {"aal1", "aal1", ""},
		"two factors":   {"aal2", "aal2", ""},
		"another level": {"urn:example:loa:3", "urn:example:loa:3", ""},
		"empty":         {"", "", ""},
		"no level":      {nil, "", ""},
		"a number":      {2, "", authz.ReasonMalformed},
		"a list":        {[]string{"aal2"}, "", authz.ReasonMalformed},
		"a line break":  {"aal2\nx", "", authz.ReasonMalformed},
		"null":          {json.RawMessage("null"), "", authz.ReasonMalformed},
	} {
		token := sign(jose.HS256, []byte(secret), "", claimsWith(fields{"aal": c.aal}))
		for range 2 {
			answer, err := v.Verify(t.Context(), api, token)
			if err != nil || answer.AAL != c.want || answer.Denial != c.denial {
				t.Errorf("%s: %+v, %v", name, answer, err)
			}
		}
	}
}

// A wrong setting can be the reason why an algorithm is not supported, so the detail contains the algorithm's name. The detail
// quotes the name only if it has the form of an algorithm's name.
func TestUnsupportedAlgorithmIsNamed(t *testing.T) {
	p := publish(t, public("ec", &ecKey.PublicKey))
	keysOnly := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	secretOnly := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)
	payload := strings.Split(sign(jose.ES256, ecKey, "ec", claimsWith(nil)).Reveal(), ".")[1]
	tokenWithAlg := func(alg string) authz.Secret {
		return authz.Secret(encode(`{"alg":"`+alg+`","kid":"ec"}`) + "." + payload + ".c2ln")
	}
	for _, c := range []struct {
		v           authz.Sessions
		alg         string
		detailParts []string
	}{
		{keysOnly, "HS256", []string{"HS256, for which session.hs256_secret must be set", "accepts ES256, RS256"}},
		{secretOnly, "ES256", []string{"ES256, for which session.jwks_url must be set", "accepts HS256"}},
		{secretOnly, "RS256", []string{"RS256, for which session.jwks_url must be set"}},
		{keysOnly, "EdDSA", []string{"algorithm is EdDSA; the API accepts ES256, RS256"}},
		{keysOnly, "HS512", []string{"algorithm is HS512;"}},
		{keysOnly, "none", []string{"algorithm is none;"}},
		{keysOnly, "es256", []string{"algorithm is es256;"}},
		{keysOnly, strings.Repeat("x", 17), []string{"algorithm is of an unknown form;"}},
		{keysOnly, "sk_live_abc", []string{"algorithm is of an unknown form;"}},
	} {
		answer, err := c.v.Verify(t.Context(), api, tokenWithAlg(c.alg))
		if err != nil || answer.Denial != authz.ReasonUnsupportedAlgorithm {
			t.Errorf("%s: %+v, %v", c.alg, answer, err)
		}
		for _, want := range c.detailParts {
			if !strings.Contains(answer.Detail, want) {
				t.Errorf("%s: the detail is %q, without %q", c.alg, answer.Detail, want)
			}
		}
	}
}

// If the configuration does not match the issuer's tokens, the detail describes the difference. If the operator can change a
// setting, the detail contains the setting's name.
func TestMismatchWithConfigurationIsExplained(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)
	for want, change := range map[string]fields{
		"the token has no claim iss: set iss in the issuer's tokens (Supabase Auth: set GOTRUE_JWT_ISSUER)": {"iss": nil},
		"the token has no claim iss: ": {"iss": ""},
		`the token's iss is "` + supabase.IssuerClaim + `/", and session.issuer is "` + supabase.IssuerClaim + `"`: {"iss": supabase.IssuerClaim + "/"},
		`the token's aud is ["anon"], and session.audience is "authenticated"`:                                     {"aud": "anon"},
		"the token has several audiences":                                                     {"aud": []string{"authenticated", "x"}},
		"the token's claim role is not \"authenticated\"":                                     {"role": "service_role"},
		"the token belongs to an anonymous user: set session.anonymous to accept such tokens": {"is_anonymous": true},
	} {
		answer, err := v.Verify(t.Context(), api, sign(jose.HS256, []byte(secret), "", claimsWith(change)))
		if err != nil || answer.Denial == "" || !strings.Contains(answer.Detail, want) {
			t.Errorf("%q: %+v, %v", want, answer, err)
		}
	}
	// For a token that the issuer has not signed, there is no detail.
	for _, change := range []fields{{"iss": nil}, {"iss": "https://evil.example"}, {"aud": "x"}, {"role": "x"}} {
		answer, err := v.Verify(t.Context(), api, sign(jose.HS256, []byte(secret+"!"), "", claimsWith(change)))
		if err != nil || answer.Denial != authz.ReasonUnknown || answer.Detail != "" {
			t.Errorf("forged: %+v, %v", answer, err)
		}
	}
}
