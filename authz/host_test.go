package authz_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// withHosts returns the configuration with these hosts for the two APIs.
func withHosts(velaflows, velocity []string) authz.Config {
	c := config()
	for name, hosts := range map[string][]string{"velaflows": velaflows, "velocity": velocity} {
		api := c.APIs[name]
		api.Hosts = hosts
		c.APIs[name] = api
	}
	return c
}

// If hosts are configured, the host selects the API. An unknown host is an error, and never selects the default API.
func TestHostSelectsTheAPI(t *testing.T) {
	c := withHosts([]string{"API.velaflows.test", "[::1]"}, []string{"velocity.test", "*.velocity.test", "api.a.velocity.test", "*.b.c.velocity.test"})
	c.DefaultAPI = "velaflows"
	nested := withHosts([]string{"*.b.velocity.test", "x.velocity.test"}, []string{"*.velocity.test"})
	for _, x := range []struct {
		config authz.Config
		api    string // the context extension
		host   string
		want   string // empty: an error
	}{
		{c, "", "api.velaflows.test", "velaflows"},
		{c, "", "Api.VelaFlows.TEST", "velaflows"},
		{c, "", "api.velaflows.test:8443", "velaflows"},
		{c, "", "api.velaflows.test:", "velaflows"},
		{c, "", "[::1]:80", "velaflows"},
		{c, "", "velocity.test", "velocity"},
		{c, "", "www.velocity.test:80", "velocity"},
		{c, "", "a.b.velocity.test", "velocity"},
		{nested, "", "a.b.velocity.test", "velaflows"},
		{nested, "", "b.velocity.test", "velocity"},
		{nested, "", "x.velocity.test", "velaflows"},
		{c, "velocity", "velocity.test", "velocity"},

		{c, "", "", ""},
		{c, "", "other.test", ""},
		{c, "", "velaflows.test", ""},
		{c, "", "api.velaflows.test.", ""},
		{c, "", "api.velaflows.test.:80", ""},
		{c, "", "api.velaflows.test:80:80", ""},
		{c, "", "api.velaflows.test:http", ""},
		{c, "", "api.velaflows.test:80,velocity.test", ""},
		{c, "", "velocity.test,api.velaflows.test", ""},
		{c, "", "a,b.velocity.test", ""},
		{c, "", "ada@velocity.test", ""},
		{c, "", "velocity.test:@api.velaflows.test", ""},
		{c, "", " velocity.test", ""},
		{c, "", ".velocity.test", ""},
		{c, "", "*.velocity.test", ""},
		{c, "", "xvelocity.test", ""},
		{c, "", "velo\u212Aity.test", ""},
		{withHosts([]string{"k.test"}, nil), "", "\u212A.test", ""}, // the Kelvin sign
		{withHosts([]string{"k.test"}, nil), "", "K.test", "velaflows"},
		{nested, "", "velocity.test", ""},
		{c, "velaflows", "velocity.test", ""},
		{c, "velaflows", "other.test", ""},
		{c, "other", "velocity.test", ""},
	} {
		a := newAuthorizer(t, x.config, &directory{}, &policy{decide: principalsOnly})
		r := getRequest(x.api, "/thing", nil)
		r.Host = x.host
		answer, err := a.Check(t.Context(), r)
		if answer.API != x.want || (err == nil) != (x.want != "") || x.want == "" && answer.Code != authz.CodeUnavailable {
			t.Errorf("%q %q: %q, %v, not %q", x.api, x.host, answer.API, err, x.want)
		}
	}
	// If another API has hosts, an API without hosts is selected only by Envoy's configuration.
	oneAPIHasHosts := newAuthorizer(t, withHosts([]string{"velaflows.test"}, nil), &directory{}, &policy{decide: principalsOnly})
	if answer, err := oneAPIHasHosts.Check(t.Context(), getRequest("velocity", "/thing", nil)); err != nil || answer.API != "velocity" {
		t.Errorf("%+v, %v", answer, err)
	}
}

// If a request selects no API, the error contains the settings that select an API.
func TestErrorNamesTheSettingsThatSelectAnAPI(t *testing.T) {
	for want, c := range map[string]authz.Config{
		"set default_api to one of velaflows, velocity, or set apis.NAME.hosts":              config(),
		`no API has the host "api.example" of the request: add this host to apis.NAME.hosts`: withHosts([]string{"velaflows.test"}, nil),
	} {
		_, err := newAuthorizer(t, c, &directory{}, &policy{decide: principalsOnly}).Check(t.Context(), getRequest("", "/thing", nil))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}

func TestInvalidHostsAreRefused(t *testing.T) {
	for want, hosts := range map[string][]string{
		`apis.velaflows.hosts: "" is not valid`:                                  {""},
		`apis.velaflows.hosts: "https://a.test" is not valid`:                    {"https://a.test"},
		`apis.velaflows.hosts: "a.test/x" is not valid`:                          {"a.test/x"},
		`apis.velaflows.hosts: "a.test:80" is not valid: write a host without a`: {"a.test:80"},
		`apis.velaflows.hosts: "a.test." is not valid`:                           {"a.test."},
		`apis.velaflows.hosts: "*" is not valid`:                                 {"*"},
		`apis.velaflows.hosts: "a.*.test" is not valid`:                          {"a.*.test"},
		`apis.velaflows.hosts: "a test" is not valid`:                            {"a test"},
		`apis.velocity.hosts: "a.test" is also a host of velaflows`:              {"a.test"},
		`apis.velocity.hosts: "*.a.test" is also a host of velaflows`:            {"*.a.test"},
		`apis.velocity.hosts: "b.a.test" is also a host of velaflows`:            {"B.a.test"},
		`apis.velaflows.hosts: "a.test" is also a host of velaflows`:             {"c.test", "a.test", "a.test"},
	} {
		c := withHosts(hosts, []string{"a.test", "*.a.test", "b.a.test"})
		if _, err := authz.New(c, &directory{}, &policy{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}
