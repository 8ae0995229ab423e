package authz_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestWorkspace(t *testing.T) {
	inAcme := authz.LookupResult{
		Principal: authz.Principal{ID: "t1", Kind: authz.KindWorkspaceKey},
		Workspace: authz.Membership{ID: acmeID, Slug: "acme", Role: "guest", Attributes: `{"plan": "pro"}`},
	}
	noWorkspace := authz.LookupResult{Principal: inAcme.Principal}
	noHeader, notRequested := []string(nil), authz.Workspace{}
	granted := func(requested bool) authz.Workspace {
		return authz.Workspace{Requested: requested, Granted: true, ID: acmeID, Slug: "acme", Role: "guest", Attributes: `{"plan": "pro"}`}
	}
	notGranted := authz.Workspace{Requested: true}
	for name, c := range map[string]struct {
		api    string
		found  authz.LookupResult
		header []string
		want   authz.Workspace
	}{
		"required, absent":                    {"velaflows", inAcme, noHeader, notRequested},
		"required, matches":                   {"velaflows", inAcme, []string{acmeID}, granted(true)},
		"required, another id":                {"velaflows", inAcme, []string{"64f1a2b3c4d5e6f7a8b9c0d2"}, notGranted},
		"required, empty":                     {"velaflows", inAcme, []string{""}, notGranted},
		"required, repeated":                  {"velaflows", inAcme, []string{acmeID, acmeID}, notGranted},
		"required, two ids joined by a comma": {"velaflows", inAcme, []string{acmeID + "," + acmeID}, notGranted},
		"required, upper case":                {"velaflows", inAcme, []string{strings.ToUpper(acmeID)}, notGranted},
		"required, too short":                 {"velaflows", inAcme, []string{acmeID[1:]}, notGranted},
		"required, the slug":                  {"velaflows", inAcme, []string{"acme"}, notGranted},
		"required, trailing newline":          {"velaflows", inAcme, []string{acmeID + "\n"}, notGranted},
		"optional, absent":                    {"velocity", inAcme, noHeader, granted(false)},
		"optional, matches":                   {"velocity", inAcme, []string{"acme"}, granted(true)},
		"optional, another slug":              {"velocity", inAcme, []string{"globex"}, notGranted},
		"optional, empty":                     {"velocity", inAcme, []string{""}, notGranted},
		"optional, upper case":                {"velocity", inAcme, []string{"Acme"}, notGranted},
		"optional, repeated":                  {"velocity", inAcme, []string{"acme", "acme"}, notGranted},
		"optional, the id":                    {"velocity", inAcme, []string{acmeID}, notGranted},
		"optional, a dash first":              {"velocity", inAcme, []string{"-acme"}, notGranted},
		"optional, 64 characters":             {"velocity", inAcme, []string{strings.Repeat("a", 64)}, notGranted},
		"no workspace, absent":                {"velocity", noWorkspace, noHeader, notRequested},
		"no workspace, requested":             {"velocity", noWorkspace, []string{"acme"}, notGranted},
	} {
		t.Run(name, func(t *testing.T) {
			p := &policy{decide: principalsOnly}
			sent := map[string][]string{"authorization": {"Bearer vel_" + strings.Repeat("a", 38)}}
			if c.api == "velaflows" {
				sent["authorization"] = []string{"Bearer " + validKey}
			}
			if c.header != nil {
				sent[map[string]string{"velaflows": "x-workspace-id", "velocity": "x-workspace-slug"}[c.api]] = c.header
			}
			answer, err := newAuthorizer(t, config(), &directory{found: c.found}, p).Check(t.Context(), getRequest(c.api, "/thing", sent))
			if err != nil {
				t.Fatal(err)
			}
			header := authz.HeaderValue{Name: map[string]string{"velaflows": "x-workspace-id", "velocity": "x-workspace-slug"}[c.api]}
			if c.want.Granted {
				header.Value = map[string]string{"velaflows": acmeID, "velocity": "acme"}[c.api]
			}
			if answer.WorkspaceHeader != header {
				t.Errorf("the workspace header is %+v, want %+v", answer.WorkspaceHeader, header)
			}
			if got := p.inputs[len(p.inputs)-1].Workspace; got != c.want || answer.Workspace != c.want {
				t.Errorf("the policy read %+v, the answer has %+v, want %+v", got, answer.Workspace, c.want)
			}
		})
	}
}
