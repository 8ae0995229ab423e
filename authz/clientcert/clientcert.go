// Package clientcert parses the certificate that a client has presented to the policy enforcement point (PEP), such as Envoy.
package clientcert

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
)

// Certificate is the data of a client's certificate that a policy can read.
type Certificate struct {
	URIs, DNSNames []string
	Subject        string // in the form of RFC 2253, such as CN=billing,O=Acme
}

// Parse returns the data of one certificate. The parameter `encoded` is the certificate in PEM, URL-encoded, as Envoy sends it.
// The errors of Parse do not contain the certificate's content.
func Parse(encoded string) (*Certificate, error) {
	text, err := url.PathUnescape(encoded) // unlike QueryUnescape, PathUnescape keeps a plus sign
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
