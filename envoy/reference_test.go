package envoy

import (
	"context"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/metadata"

	"github.com/keywicket/keywicket/authz"
)

// apiExtension is the key of the context extension that names the API of a virtual host or a route.
const apiExtension = "api"

// clientAddress is the key of the gRPC metadata in which Envoy sends the client's address. Envoy's configuration sets it
// (initial_metadata in deploy/envoy), and nothing that a client sends becomes metadata of a check. The CheckRequest itself
// has the connection's other end alone, which is a load balancer's where one stands in front of Envoy.
const clientAddress = "x-keywicket-client-address"

// request reads a CheckRequest. What is missing stays empty, and matches nothing.
func request(ctx context.Context, check *authv3.CheckRequest) authz.Request {
	attributes := check.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	extensions := attributes.GetContextExtensions()
	return authz.Request{
		API:     extensions[apiExtension],
		Method:  http.GetMethod(),
		Path:    http.GetPath(),
		Host:    http.GetHost(),
		Header:  header(http),
		Context: extensions,
		Source: authz.Connection{
			Address:     address(ctx, attributes.GetSource()),
			Principal:   attributes.GetSource().GetPrincipal(),
			Certificate: attributes.GetSource().GetCertificate(),
		},
	}
}

// address returns the client's address from the metadata, and nothing where there are several. Without metadata it is the address
// of the connection's other end.
func address(ctx context.Context, source *authv3.AttributeContext_Peer) string {
	values := metadata.ValueFromIncomingContext(ctx, clientAddress)
	switch len(values) {
	case 0:
		return source.GetAddress().GetSocketAddress().GetAddress()
	case 1:
		return values[0]
	}
	return ""
}

// header gives every value of a repeated header on its own, as long as Envoy has encode_raw_headers: without it Envoy
// joins them by commas, which no credential and no workspace reference holds.
func header(http *authv3.AttributeContext_HttpRequest) map[string][]string {
	raw := http.GetHeaderMap().GetHeaders()
	values := make(map[string][]string, len(raw)+len(http.GetHeaders()))
	for _, h := range raw {
		value := h.GetValue()
		if len(h.GetRawValue()) > 0 {
			value = string(h.GetRawValue())
		}
		add(values, h.GetKey(), value)
	}
	if len(raw) == 0 {
		for name, value := range http.GetHeaders() {
			add(values, name, value)
		}
	}
	return values
}

func add(values map[string][]string, name, value string) {
	name = strings.ToLower(name) // as Envoy sends it; another PEP may not
	values[name] = append(values[name], value)
}
