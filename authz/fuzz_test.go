package authz_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// Each fuzz target tests one rule. This file implements each rule a second time. The target compares the results of both
// implementations.

// headerValues returns 0 to 3 values of one header. The third value equals the first.
func headerValues(count uint8, first, second string) []string {
	return [][]string{nil, {first}, {first, second}, {first, second, first}}[count%4]
}

// bearerForm is the form of the header in RFC 6750, section 2.1. The scheme has any letter case, and one or more spaces follow the
// scheme (RFC 9110).
var bearerForm = regexp.MustCompile(`^(?i:bearer) +([A-Za-z0-9._~+/-]+=*)$`)

// presentedToken returns the token in the values of the Authorization header, for an API that [config] configures. The result
// `canBeValid` reports whether the token can be valid. The header must have one value of the right form. The token must have at
// least 16 characters after its prefix, and at most 512 bytes.
func presentedToken(api string, values []string) (token string, canBeValid bool) {
	if len(values) != 1 {
		return "", false
	}
	m := bearerForm.FindStringSubmatch(values[0])
	if m == nil || len(m[1]) > 512 {
		return "", false
	}
	prefixes := map[string][]string{"velaflows": {"sk_live_"}, "velocity": {"vel_u_", "vel_"}}[api] // the longest prefix is first
	for _, prefix := range prefixes {
		if body, ok := strings.CutPrefix(m[1], prefix); ok {
			return m[1], len(body) >= 16
		}
	}
	return m[1], false
}

// FuzzAuthorizationHeader sends any values of the Authorization header. Check must return an answer and must not panic. Check
// looks up a credential, by its digest, if and only if the credential can be valid. A request without such a credential is denied.
// No error, answer or policy input contains the credential, even if the directory fails.
func FuzzAuthorizationHeader(f *testing.F) {
	for _, values := range [][]string{
		{"Bearer " + validKey}, {"bEaReR   " + validKey}, {"Bearer vel_aaaaaaaaaaaaaaaa"}, {"Bearer vel_u_aaaaaaaaaaaaaaaa"},
		{"Bearer vel_u_aaaaaaaaaaaaaa"}, {"Bearer sk_live_-._~+/aaaaaaaaaa=="}, {"Bearer " + validKey, "Bearer " + validKey},
		{"", "Bearer " + validKey}, {"Bearer " + validKey + ",Bearer " + validKey}, {"Bearer " + validKey + " "},
		{" Bearer " + validKey}, {"Bearer\t" + validKey}, {"Bearer \t" + validKey}, {"Bearer" + validKey}, {"Bearer"}, {"Bearer "}, {""},
		{"Basic dXNlcjpwYXNz"}, {"Bearer: " + validKey}, {"Bearer " + validKey + "\xff"}, {"Bearer " + validKey + "\n"},
		{"Bearer " + validKey + "\r\nx-admin: 1"}, {"Bearer \x00" + validKey}, {"Bearer ==="}, {"Bearer eyJhbGciOiJub25lIn0.e30.c2ln"},
		{"Bearer sk_live_" + strings.Repeat("a", 504)}, {"Bearer sk_live_" + strings.Repeat("a", 505)},
		{"Bearer a.b." + strings.Repeat("a", 8189)}, {"Bearer a.b." + strings.Repeat("a", 8190)}, {"Be\u212aer " + validKey},
	} {
		second := ""
		if len(values) == 2 {
			second = values[1]
		}
		for _, velocity := range []bool{false, true} {
			f.Add(uint8(len(values)), values[0], second, velocity, false)
		}
	}
	f.Add(uint8(0), "", "", false, false)
	f.Add(uint8(1), "Bearer "+validKey, "", false, true)
	f.Add(uint8(3), "Bearer "+validKey, "Bearer", false, false)

	f.Fuzz(func(t *testing.T, count uint8, first, second string, velocity, directoryFails bool) {
		api := map[bool]string{false: "velaflows", true: "velocity"}[velocity]
		values := headerValues(count, first, second)
		d, p := &directory{found: acme}, &policy{decide: principalsOnly}
		if directoryFails {
			d.err = errors.New("the database is down")
		}
		a, err := authz.New(config(), d, p)
		if err != nil {
			t.Fatal(err)
		}
		r := getRequest(api, "/thing", map[string][]string{"authorization": values})
		if values == nil {
			r.Header = nil
		}
		answer, err := a.Check(t.Context(), r)

		token, canBeValid := presentedToken(api, values)
		switch {
		case !canBeValid && len(d.lookups) != 0:
			t.Fatalf("%q was looked up", values)
		case canBeValid && (len(d.lookups) != 1 || d.lookups[0].Digest != authz.Secret(token).Digest()):
			t.Fatalf("%q: the look-ups are %v", values, d.lookups)
		case answer.Allow != (canBeValid && !directoryFails):
			t.Fatalf("%q: %+v", values, answer)
		case (err != nil) != (canBeValid && directoryFails):
			t.Fatalf("%q: %v", values, err)
		case err != nil && err.Error() != "look up the credential: the database is down":
			t.Fatalf("%q: %v", values, err)
		}
		if strings.HasPrefix(token, "sk_live_") || strings.HasPrefix(token, "vel_") { // no other text here has these prefixes
			if shown := fmt.Sprintf("%+v %#v %+v %v", answer, answer, p.inputs, err); strings.Contains(shown, token) {
				t.Fatalf("%q is shown: %s", token, shown)
			}
		}
	})
}

// matchesAlphabet reports whether s has minLength to maxLength bytes, all of them lower-case hexadecimal digits or bytes of extra.
func matchesAlphabet(s string, minLength, maxLength int, extra string) bool {
	if len(s) < minLength || len(s) > maxLength {
		return false
	}
	for _, b := range []byte(s) {
		if strings.IndexByte("0123456789abcdef"+extra, b) < 0 {
			return false
		}
	}
	return true
}

// FuzzWorkspaceHeader checks when a workspace is granted. The credential must have a workspace. The header must be absent and not
// required, or have one value that equals the workspace's id or slug (the API's configuration says which). A workspace that is not
// granted appears in no answer. Check looks up only a value of the right form.
func FuzzWorkspaceHeader(f *testing.F) {
	for _, v := range []string{
		acmeID, "acme", "", strings.ToUpper(acmeID), acmeID[1:], acmeID + "0", acmeID + "\n", acmeID + "," + acmeID, " " + acmeID,
		"Acme", "-acme", "a", "globex", strings.Repeat("a", 63), strings.Repeat("a", 64), "acme\x00", "acm\u00e9", "64f1a2b3c4d5e6f7a8b9c0d2",
	} {
		for count := range uint8(4) {
			f.Add(count, v, acmeID, true, true, acmeID, "acme", "")
			f.Add(count, v, v, false, false, acmeID, "acme", "owner")
		}
	}
	f.Add(uint8(1), "acme", "", false, false, "", "acme", "")
	f.Add(uint8(1), "", "", false, false, acmeID, "", "")
	f.Fuzz(func(t *testing.T, count uint8, first, second string, byID, required bool, id, slug, role string) {
		values := headerValues(count, first, second)
		api := authz.API{
			Workspace:   authz.WorkspaceHeader{Header: "x-workspace", By: authz.BySlug, Required: required},
			Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}},
		}
		if byID {
			api.Workspace.By = authz.ByID
		}
		d := &directory{found: authz.LookupResult{
			Principal: authz.Principal{ID: "t1"}, Workspace: authz.Membership{ID: id, Slug: slug, Role: role},
		}}
		p := &policy{decide: principalsOnly}
		a, err := authz.New(authz.Config{APIs: map[string]authz.API{"x": api}}, d, p)
		if err != nil {
			t.Fatal(err)
		}
		header := map[string][]string{"authorization": {"Bearer " + validKey}}
		if values != nil {
			header["x-workspace"] = values
		}
		answer, err := a.Check(context.Background(), getRequest("x", "/thing", header))
		if err != nil || len(d.lookups) != 1 {
			t.Fatalf("%q: %v, %d look-ups", values, err, len(d.lookups))
		}

		var requested authz.WorkspaceRef
		if len(values) == 1 {
			switch v := values[0]; {
			case byID && matchesAlphabet(v, 24, 24, ""):
				requested.ID = v
			case !byID && matchesAlphabet(v, 1, 63, "ghijklmnopqrstuvwxyz-") && v[0] != '-':
				requested.Slug = v
			}
		}
		equal := requested.ID != "" && requested.ID == id || requested.Slug != "" && requested.Slug == slug
		want := authz.Workspace{Requested: len(values) > 0}
		if id != "" && (equal || len(values) == 0 && !required) {
			want = authz.Workspace{Requested: want.Requested, Granted: true, ID: id, Slug: slug, Role: role}
		}
		if d.lookups[0].Workspace != requested {
			t.Fatalf("%q: looked up %+v, not %+v", values, d.lookups[0].Workspace, requested)
		}
		if got := p.inputs[len(p.inputs)-1].Workspace; got != want || answer.Workspace != want {
			t.Fatalf("%q against %q, %q: the policy read %+v, the answer has %+v, want %+v", values, id, slug, got, answer.Workspace, want)
		}
	})
}
