package authz

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"net/url"
)

// Connection is where a request came from, as the PEP says. It is as trustworthy as the PEP's listener. Empty fields are not known.
type Connection struct {
	// Address is the client's IP address, as the PEP trusts it.
	Address string
	// Principal is whom the client's certificate names: its first URI, DNS name or subject, as the PEP has verified it.
	Principal string
	// Certificate is the client's, in PEM and then URL-encoded.
	Certificate string
}

// Source is what a policy sees of a Connection.
type Source struct {
	Address     string // of IPv4 or IPv6, in its shortest form; empty: not known
	Principal   string
	Certificate *Certificate // nil: there is none, or the policy does not read it
}

// Certificate is what a policy sees of a client's certificate.
type Certificate struct {
	URIs, DNSNames []string
	Subject        string // RFC 2253, such as CN=billing,O=Acme
}

// clientAddress gives one address one spelling. A client of IPv4 has its address even where the PEP listens on IPv6. What is
// no IP address, such as a socket's path, is not known.
func clientAddress(text string) string {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	return address.Unmap().WithZone("").String()
}

// parseCertificate reads one certificate. The errors do not tell what is in it.
func parseCertificate(encoded string) (*Certificate, error) {
	text, err := url.PathUnescape(encoded) // a + is one
	if err != nil {
		return nil, errors.New("it is not URL-encoded")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, errors.New("it is not one certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not an X.509 certificate")
	}
	certificate := &Certificate{DNSNames: c.DNSNames, Subject: c.Subject.String()}
	for _, uri := range c.URIs {
		certificate.URIs = append(certificate.URIs, uri.String())
	}
	return certificate, nil
}
