package authz

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"net/url"
)

// Connection is the source of a request, as the PEP reports it. It is as trustworthy as the PEP's listener. Empty fields are
// unknown.
type Connection struct {
	// Address is the client's IP address that the PEP trusts.
	Address string
	// Principal is the name in the client's certificate: its first URI, DNS name or subject. The PEP has verified it.
	Principal string
	// Certificate is the client's certificate in PEM, URL-encoded.
	Certificate string
}

// Source is the data of a Connection that a policy can read.
type Source struct {
	Address     string // an IPv4 or IPv6 address in its shortest form; empty: unknown
	Principal   string
	Certificate *Certificate // nil: there is none, or the policy does not read it
}

// Certificate is the data of a client's certificate that a policy can read.
type Certificate struct {
	URIs, DNSNames []string
	Subject        string // RFC 2253, such as CN=billing,O=Acme
}

// clientAddress returns an address in its only spelling. An IPv4 client has its IPv4 address even if the PEP listens on IPv6.
// Text that is not an IP address, such as the path of a socket, returns "".
func clientAddress(text string) string {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	return address.Unmap().WithZone("").String()
}

// parseCertificate returns the data of one certificate. Its errors do not contain the certificate's content.
func parseCertificate(encoded string) (*Certificate, error) {
	text, err := url.PathUnescape(encoded) // not QueryUnescape: a + stays a +
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
