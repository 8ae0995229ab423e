package envoy

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keywicket/keywicket/authz"
)

// This file reads a CheckRequest from its wire format. A check needs only a tenth of the message, and objects for the whole message
// would cost more than the decision. This code reads the same values as proto.Unmarshal, and refuses the same malformed messages.
// request_test.go compares the results of both.

// apiExtension is the key of the context extension that contains the API's name. Envoy's configuration sets it for a virtual host
// or a route.
const apiExtension = "api"

// clientAddressKey is the key of the gRPC metadata in which Envoy sends the client's address. Envoy's configuration sets this
// metadata (initial_metadata in deploy/envoy). A client cannot set the metadata, because Envoy copies no header of a request into
// the metadata. The CheckRequest itself contains only the peer address of the connection. With a load balancer in front of Envoy,
// the peer address is the load balancer's address.
const clientAddressKey = "x-keywicket-client-address"

// request contains the fields of a CheckRequest that a check reads. Absent fields stay empty. No route matches an empty method or
// path. All strings are substrings of one copy of the message, so that no string refers to memory that gRPC reuses.
type request struct {
	method, path, host        string
	rawHeaders, joinedHeaders authz.Fields // raw: one entry per value; joined (Envoy without encode_raw_headers): one entry per name, the values joined by commas
	extensions                authz.Fields
	address                   string           // peer address of the connection
	addressOneof              protowire.Number // field number of the oneof field of Address that came last in the message
	principal, certificate    string

	message string // empty if the message is too large
	size    int    // size of the message in bytes

	key, value, rawValue string // fields of the map entry or header that is being read
}

// reset clears the request, and keeps small slices for the next request.
func (r *request) reset() {
	emptySlice := func(f authz.Fields) authz.Fields {
		const maxReused = 256 // fields
		if cap(f) > maxReused {
			return nil
		}
		clear(f)
		return f[:0]
	}
	*r = request{rawHeaders: emptySlice(r.rawHeaders), joinedHeaders: emptySlice(r.joinedHeaders), extensions: emptySlice(r.extensions)}
}

// read parses the message into the other fields.
func (r *request) read() error {
	err := eachField(r.message, protowire.DefaultRecursionLimit, r.readCheck)
	r.extensions, r.joinedHeaders = lastValues(r.extensions), lastValues(r.joinedHeaders)
	for i := range r.joinedHeaders {
		r.joinedHeaders[i].Name = strings.ToLower(r.joinedHeaders[i].Name)
	}
	return err
}

// The field numbers are those of attribute_context.proto, external_auth.proto, address.proto and base.proto of Envoy.

func (r *request) readCheck(number protowire.Number, value string, depth int) error {
	if number == 1 {
		return eachField(value, depth, r.readAttributes)
	}
	return nil
}

func (r *request) readAttributes(number protowire.Number, value string, depth int) error {
	switch number {
	case 1:
		return eachField(value, depth, r.readSource)
	case 4:
		return eachField(value, depth, r.readRequest)
	case 10:
		return r.readMapEntry(&r.extensions, value, depth)
	}
	return schemas.attributes.validate(number, value, depth)
}

func (r *request) readSource(number protowire.Number, value string, depth int) error {
	switch number {
	case 1:
		return eachField(value, depth, r.readAddress)
	case 4:
		r.principal = value
	case 5:
		r.certificate = value
	}
	return schemas.peer.validate(number, value, depth)
}

// readAddress reads the address of a socket. An Address has one of three fields (a protobuf oneof). If the message contains several
// of these fields, the last one applies.
func (r *request) readAddress(number protowire.Number, value string, depth int) error {
	if number < 1 || number > 3 {
		return nil
	}
	if number != r.addressOneof {
		r.addressOneof, r.address = number, ""
	}
	if number > 1 {
		return schemas.address.validate(number, value, depth)
	}
	return eachField(value, depth, func(number protowire.Number, value string, depth int) error {
		if number == 2 {
			r.address = value
		}
		return schemas.socket.validate(number, value, depth)
	})
}

func (r *request) readRequest(number protowire.Number, value string, depth int) error {
	if number == 2 {
		return eachField(value, depth, r.readHTTP)
	}
	return schemas.request.validate(number, value, depth)
}

func (r *request) readHTTP(number protowire.Number, value string, depth int) error {
	switch number {
	case 2:
		r.method = value
	case 3:
		return r.readMapEntry(&r.joinedHeaders, value, depth)
	case 4:
		r.path = value
	case 5:
		r.host = value
	case 13:
		return eachField(value, depth, func(number protowire.Number, value string, depth int) error {
			if number != 1 {
				return nil
			}
			r.key, r.value, r.rawValue = "", "", ""
			err := eachField(value, depth, r.readPair)
			if r.rawValue != "" {
				r.value = r.rawValue
			}
			r.rawHeaders = append(r.rawHeaders, authz.HeaderValue{Name: strings.ToLower(r.key), Value: r.value})
			return err
		})
	}
	return schemas.http.validate(number, value, depth)
}

// readPair reads a header, or an entry of a map of strings. Only a header can have a raw value.
func (r *request) readPair(number protowire.Number, value string, _ int) error {
	switch number {
	case 1:
		r.key = value
	case 2:
		r.value = value
	case 3:
		r.rawValue = value
		return nil
	default:
		return nil
	}
	return checkUTF8(value)
}

// readMapEntry appends an entry of a map of strings.
func (r *request) readMapEntry(fields *authz.Fields, entry string, depth int) error {
	r.key, r.value = "", ""
	err := eachField(entry, depth, r.readPair)
	*fields = append(*fields, authz.HeaderValue{Name: r.key, Value: r.value})
	return err
}

// lastValues returns the fields with only the last value of each name, as a map would keep it. It reuses the memory of fields.
func lastValues(fields authz.Fields) authz.Fields {
	const maxLinear = 32
	var index map[string]int // nil for up to maxLinear fields, which are searched linearly
	if len(fields) > maxLinear {
		index = make(map[string]int, len(fields))
	}
	kept := fields[:0]
	for _, f := range fields {
		i, found := index[f.Name]
		if index == nil {
			i = slices.IndexFunc(kept, func(k authz.HeaderValue) bool { return k.Name == f.Name })
			found = i >= 0
		}
		if found {
			kept[i].Value = f.Value
			continue
		}
		if index != nil {
			index[f.Name] = len(kept)
		}
		kept = append(kept, f)
	}
	clear(fields[len(kept):])
	return kept
}

// header returns the headers. If Envoy sets encode_raw_headers, a repeated header has one entry per value. Otherwise Envoy joins
// the values with commas. A check never accepts a joined credential or workspace reference, because no valid value contains a
// comma. Names are in lower case, even if a proxy other than Envoy sends capitals.
func (r *request) header() authz.Fields {
	if len(r.rawHeaders) > 0 {
		return r.rawHeaders
	}
	return r.joinedHeaders
}

// authzRequest returns the request in the form of package authz.
func (r *request) authzRequest(ctx context.Context) authz.Request {
	api, _ := r.extensions.Get(apiExtension)
	return authz.Request{
		API:     api,
		Method:  r.method,
		Path:    r.path,
		Host:    r.host,
		Header:  r.header(),
		Context: r.extensions,
		Source:  authz.Connection{Address: r.clientAddress(ctx), Principal: r.principal, Certificate: r.certificate},
	}
}

// clientAddress returns the client's address from the metadata, or "" if the metadata contains several addresses. Without metadata
// it returns the peer address of the connection.
func (r *request) clientAddress(ctx context.Context) string {
	switch values := metadata.ValueFromIncomingContext(ctx, clientAddressKey); len(values) {
	case 0:
		return r.address
	case 1:
		return values[0]
	}
	return ""
}
