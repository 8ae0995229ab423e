package authz

import (
	"net/netip"

	"github.com/keywicket/keywicket/authz/clientcert"
)

// Connection is the source of a request, as the PEP (policy enforcement point, such as Envoy) reports it. The reported data are as
// trustworthy as the PEP's listener. Empty fields are unknown.
type Connection struct {
	// Address is the client's IP address that the PEP trusts.
	Address string
	// Principal is the name in the client's certificate, which the PEP has verified. The name is
	// the first URI. Without a URI, it is the first DNS name. Without both, it is the subject.
	Principal string
	// Certificate is the client's certificate in PEM, URL-encoded.
	Certificate string
}

// Source is the data of a Connection that a policy can read.
type Source struct {
	Address     string                  // an IPv4 or IPv6 address in its shortest form; empty: unknown
	Principal   string                  // as in Connection
	Certificate *clientcert.Certificate // nil: no certificate, or the policy does not read certificates
}

// clientAddress returns an address in its canonical form. For an IPv4 client, it returns the IPv4 address even if the PEP listens
// on IPv6. For text that is not an IP address, such as the path of a socket, it returns "".
func clientAddress(text string) string {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	return address.Unmap().WithZone("").String()
}
