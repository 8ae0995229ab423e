package authz_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestCredential(t *testing.T) {
	const lookedUp = "" // the expected reason if the credential is not denied, but looked up
	long := func(prefix string, n int) string { return prefix + strings.Repeat("a", n-len(prefix)) }
	for name, c := range map[string]struct {
		values []string
		want   authz.Reason
	}{
		"absent":                                {nil, authz.ReasonMissing},
		"empty":                                 {[]string{""}, authz.ReasonMissing},
		"another scheme":                        {[]string{"Basic dXNlcjpwYXNz"}, authz.ReasonMissing},
		"a scheme with the same start":          {[]string{"Bearer-ish " + validKey}, authz.ReasonMissing},
		"only the key":                          {[]string{validKey}, authz.ReasonMissing},
		"only the scheme":                       {[]string{"Bearer"}, authz.ReasonMalformed},
		"the scheme and a space":                {[]string{"Bearer "}, authz.ReasonMalformed},
		"a tab instead of the space":            {[]string{"Bearer\t" + validKey}, authz.ReasonMalformed},
		"a space and a tab":                     {[]string{"Bearer \t" + validKey}, authz.ReasonMalformed},
		"a colon after the scheme":              {[]string{"Bearer: " + validKey}, authz.ReasonMalformed},
		"a quotation mark instead of the space": {[]string{`Bearer"` + validKey}, authz.ReasonMalformed},
		"leading white space":                   {[]string{" Bearer " + validKey}, authz.ReasonMissing},
		"trailing white space":                  {[]string{"Bearer " + validKey + " "}, authz.ReasonMalformed},
		"two tokens":                            {[]string{"Bearer " + validKey + " x"}, authz.ReasonMalformed},
		"two headers joined by a comma":         {[]string{"Bearer " + validKey + ",Bearer " + validKey}, authz.ReasonMalformed},
		"two headers":                           {[]string{"Bearer " + validKey, "Bearer " + validKey}, authz.ReasonMalformed},
		"a byte that is not ASCII":              {[]string{"Bearer " + validKey + "\xff"}, authz.ReasonMalformed},
		"an equals sign before other text":      {[]string{"Bearer sk_live_=a1b2c3d4e5f6g7h8"}, authz.ReasonMalformed},
		"only equals signs":                     {[]string{"Bearer ==="}, authz.ReasonMalformed},
		"a prefix of another API":               {[]string{"Bearer vel_a1b2c3d4e5f6g7h8i9j0"}, authz.ReasonUnknown},
		"a prefix in capitals":                  {[]string{"Bearer SK_LIVE_a1b2c3d4e5f6g7h8"}, authz.ReasonUnknown},
		"a body of 15 characters":               {[]string{"Bearer sk_live_a1b2c3d4e5f6g7h"}, authz.ReasonMalformed},
		"a key of 513 bytes":                    {[]string{"Bearer " + long("sk_live_", 513)}, authz.ReasonMalformed},
		"a JWT, but no session format":          {[]string{"Bearer eyJhbGciOiJub25lIn0.e30.c2ln"}, authz.ReasonUnknown},
		"a JWT of 8,193 bytes":                  {[]string{"Bearer " + long("a.b.", 8193)}, authz.ReasonMalformed},
		"a JWT of 8,192 bytes":                  {[]string{"Bearer " + long("a.b.", 8192)}, authz.ReasonUnknown},
		"a valid key":                           {[]string{"Bearer " + validKey}, lookedUp},
		"a scheme in mixed case":                {[]string{"bEaReR " + validKey}, lookedUp},
		"several spaces (RFC 9110's 1*SP)":      {[]string{"Bearer   " + validKey}, lookedUp},
		"a body of 16 characters":               {[]string{"Bearer sk_live_a1b2c3d4e5f6g7h8"}, lookedUp},
		"every b64token character":              {[]string{"Bearer sk_live_-._~+/aaaaaaaaaa=="}, lookedUp},
		"a key of 512 bytes":                    {[]string{"Bearer " + long("sk_live_", 512)}, lookedUp},
		"dots in a key with a known prefix":     {[]string{"Bearer sk_live_aaaaaaaa.bbbb.cccc"}, lookedUp},
	} {
		t.Run(name, func(t *testing.T) {
			d, p := &directory{found: acme}, &policy{decide: principalsOnly}
			answer, err := newAuthorizer(t, config(), d, p).Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization(c.values...)))
			if err != nil {
				t.Fatal(err)
			}
			if answer.Allow != (c.want == lookedUp) || answer.Reason != c.want {
				t.Errorf("got allow %v, reason %q", answer.Allow, answer.Reason)
			}
			if n := len(d.lookups); n != map[bool]int{true: 1}[c.want == lookedUp] {
				t.Errorf("%d look-ups", n)
			}
		})
	}
}

func TestLookupIsByTheDigestOfTheWholeKey(t *testing.T) {
	d := &directory{found: acme}
	a := newAuthorizer(t, config(), d, &policy{decide: principalsOnly})
	if _, err := a.Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey))); err != nil {
		t.Fatal(err)
	}
	want := authz.Lookup{Kind: authz.KindWorkspaceToken, Digest: authz.Secret(validKey).Digest(), API: "velaflows", Workspace: authz.WorkspaceRef{ID: acmeID}}
	if len(d.lookups) != 1 || d.lookups[0] != want {
		t.Fatalf("the look-ups are %v, want %v", d.lookups, want)
	}
}
