package document_test

import (
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/clientcert"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

func TestInputDocumentHasEveryKey(t *testing.T) {
	dir := policytest.Copy(t)
	policytest.Write(t, dir, "keywicket/decision.rego", `package keywicket

decision := {"allow": true, "code": null, "reason": null, "required_scopes": [], "route": json.marshal(input)}
`)
	policytest.RemoveTests(t, dir)
	in := policytest.Input()
	in.Principal.UserID, in.Principal.AAL = "ada", "aal2"
	in.Principal.Attributes, in.Principal.UserAttributes = `{"plan": ["pro"], "limit": 12345678901234567890.10}`, `{"beta": true}`
	in.Query = map[string][]string{"q": {"1", "2"}}
	in.Header = map[string][]string{"x-region": {"eu"}}
	in.Context = authz.Fields{{Name: "api", Value: "velaflows"}}
	in.Time = time.Unix(1750000000, 123456789)
	in.RawQuery = "q=1&q=2"
	in.Source = authz.Source{Address: "203.0.113.7", Principal: "spiffe://acme/billing", Certificate: &clientcert.Certificate{
		URIs: []string{"spiffe://acme/billing"}, DNSNames: []string{"billing.acme"}, Subject: "CN=billing",
	}}
	d, err := policytest.Load(t, dir).Decide(t.Context(), in)
	want := `{"api":"velaflows","context":{"api":"velaflows"},"denial":null,` +
		`"principal":{"aal":"aal2","api":"velaflows","attributes":{"limit":12345678901234567890.10,"plan":["pro"]},"environment":"live","id":"t1",` +
		`"kind":"workspace_token","scopes":["inbox:read"],"user_attributes":{"beta":true},"user_id":"ada"},` +
		`"request":{"headers":{"x-region":["eu"]},"host":"api.example","method":"GET","path":"/api/v1/inbox/conversations",` +
		`"query":{"q":["1","2"]},"raw_query":"q=1\u0026q=2","segments":["api","v1","inbox","conversations"]},` +
		`"source":{"address":"203.0.113.7","certificate":{"dns_names":["billing.acme"],"subject":"CN=billing","uris":["spiffe://acme/billing"]},` +
		`"principal":"spiffe://acme/billing"},"time":1750000000123456789,` +
		`"workspace":{"attributes":{},"granted":true,"id":"64f1a2b3c4d5e6f7a8b9c0d1","requested":true,"role":null,"slug":"acme"}}`
	if err != nil || d.Route != want {
		t.Fatalf("%v, got\n%s\nwant\n%s", err, d.Route, want)
	}
}
