package authz_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/clientcert"
)

// clientCertificate returns a new certificate in the form in which Envoy sends it.
func clientCertificate(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "billing", Organization: []string{"Acme"}},
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"billing.acme.example"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/billing"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func TestInputHasTheSource(t *testing.T) {
	encoded := clientCertificate(t)
	parsed := &clientcert.Certificate{
		URIs: []string{"spiffe://acme.example/billing"}, DNSNames: []string{"billing.acme.example"}, Subject: "CN=billing,O=Acme",
	}
	for name, c := range map[string]struct {
		connection        authz.Connection
		readsCertificates bool // the policy reads certificates
		want              authz.Source
	}{
		"no data":                                 {authz.Connection{}, true, authz.Source{}},
		"IPv4":                                    {authz.Connection{Address: "203.0.113.7"}, false, authz.Source{Address: "203.0.113.7"}},
		"IPv6, not shortened":                     {authz.Connection{Address: "2001:DB8:0:0:0:0:0:1"}, false, authz.Source{Address: "2001:db8::1"}},
		"IPv4 to an IPv6 listener":                {authz.Connection{Address: "::ffff:203.0.113.7"}, false, authz.Source{Address: "203.0.113.7"}},
		"a link-local address":                    {authz.Connection{Address: "fe80::1%eth0"}, false, authz.Source{Address: "fe80::1"}},
		"a socket's path":                         {authz.Connection{Address: "/run/envoy.sock"}, false, authz.Source{}},
		"no address":                              {authz.Connection{Address: "-"}, false, authz.Source{}},
		"a principal":                             {authz.Connection{Principal: "spiffe://acme.example/billing"}, false, authz.Source{Principal: "spiffe://acme.example/billing"}},
		"a certificate that is read":              {authz.Connection{Certificate: encoded}, true, authz.Source{Certificate: parsed}},
		"a certificate that is not read":          {authz.Connection{Certificate: encoded}, false, authz.Source{}},
		"an invalid certificate that is not read": {authz.Connection{Certificate: "%zz"}, false, authz.Source{}},
	} {
		p := &policy{decide: principalsOnly, needs: authz.PolicyNeeds{Source: true, Certificate: c.readsCertificates}}
		r := getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey))
		r.Source = c.connection
		if answer, err := newAuthorizer(t, config(), &directory{found: acme}, p).Check(t.Context(), r); err != nil || !answer.Allow {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
		for _, in := range p.inputs {
			if !reflect.DeepEqual(in.Source, c.want) {
				t.Errorf("%s: got %+v", name, in.Source)
			}
		}
	}
}

// If the policy reads certificates, and a certificate cannot be parsed, there is no decision, even for a public route.
func TestUnreadableCertificateIsAnError(t *testing.T) {
	valid := clientCertificate(t)
	privateKey := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})))
	notACertificate := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("secret")})))
	for name, encoded := range map[string]string{
		"an invalid URL escape": "%zz", "text that is not PEM": "secret", "another PEM type": privateKey, "other bytes in PEM": notACertificate, "two certificates": valid + valid, "truncated": valid[:len(valid)/2],
	} {
		p := &policy{needs: authz.PolicyNeeds{Certificate: true}, decide: func(authz.Input) (authz.Decision, error) {
			return authz.Decision{Allow: true}, nil
		}}
		r := getRequest("velaflows", "/thing", nil)
		r.Source.Certificate = encoded
		answer, err := newAuthorizer(t, config(), &directory{}, p).Check(t.Context(), r)
		if err == nil || answer.Allow || answer.Code != authz.CodeUnavailable || strings.Contains(err.Error(), "secret") || len(p.inputs) > 0 {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
	}
}

// A check evaluates the policy twice. Both evaluations read the same time.
func TestClockIsReadOncePerCheck(t *testing.T) {
	c, now := config(), time.Unix(1750000000, 0)
	c.Now = func() time.Time { now = now.Add(time.Second); return now }
	p := &policy{decide: principalsOnly, needs: authz.PolicyNeeds{Time: true}}
	a := newAuthorizer(t, c, &directory{found: acme}, p)
	for range 2 {
		if _, err := a.Check(t.Context(), getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.inputs); n != 4 || !p.inputs[0].Time.Equal(time.Unix(1750000001, 0)) || !p.inputs[1].Time.Equal(p.inputs[0].Time) || p.inputs[1].Time.Equal(p.inputs[2].Time) {
		t.Errorf("%d evaluations, at %v and %v", n, p.inputs[0].Time, p.inputs[1].Time)
	}
	p = &policy{needs: authz.PolicyNeeds{Time: true}, decide: func(authz.Input) (authz.Decision, error) { return authz.Decision{}, errors.New("no") }}
	if _, err := newAuthorizer(t, config(), &directory{}, p).Check(t.Context(), getRequest("velaflows", "/", nil)); err == nil || time.Since(p.inputs[0].Time) > time.Minute {
		t.Errorf("the default clock returned %v", p.inputs[0].Time)
	}
}

// The policy gets the raw query unchanged, even if parsers would read this query differently.
func TestRawQuery(t *testing.T) {
	for path, want := range map[string]string{
		"/thing": "", "/thing?": "", "/thing?a=1": "a=1", "/thing?a=%zz;b#c": "a=%zz;b#c", "/thing?a=1?b=2": "a=1?b=2", "/thing%3Fa=1": "",
	} {
		p := &policy{decide: principalsOnly}
		if _, err := newAuthorizer(t, config(), &directory{}, p).Check(t.Context(), getRequest("velaflows", path, nil)); err != nil {
			t.Fatal(err)
		}
		if got := p.inputs[0].RawQuery; got != want {
			t.Errorf("%s: %q", path, got)
		}
		if got := p.inputs[0].Segments(); strings.Contains(path, "#") && got == nil {
			t.Errorf("%s: the path has no segments, although the policy does not read the parsed query", path)
		}
	}
}

// FuzzCertificate sends any text in place of a certificate. Check must return an answer or an error, and must not panic. Text that
// is not a certificate never leads to an allow, and no error contains the text.
func FuzzCertificate(f *testing.F) {
	valid := clientCertificate(f)
	for _, seed := range []string{"", valid, valid[:40], "%zz", "x", valid + valid, strings.ReplaceAll(valid, "-----", "")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, encoded string) {
		p := &policy{decide: principalsOnly, needs: authz.PolicyNeeds{Certificate: true}}
		r := getRequest("velaflows", "/thing", withAuthorization("Bearer "+validKey))
		r.Source.Certificate = encoded
		answer, err := newAuthorizer(t, config(), &directory{found: acme}, p).Check(t.Context(), r)
		if err != nil && (answer.Allow || len(encoded) > 40 && strings.Contains(err.Error(), encoded)) {
			t.Fatalf("%+v, %v", answer, err)
		}
		if err == nil && encoded != "" && p.inputs[0].Source.Certificate == nil {
			t.Fatalf("no certificate and no error for %q", encoded)
		}
	})
}
