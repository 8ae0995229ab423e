package envoy

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keywicket/keywicket/authz"
)

// This file reads a CheckRequest from its wire format. A check needs a tenth of the message, and objects for all of it would cost
// more than the decision. The values, and the errors for malformed messages, are those of proto.Unmarshal (reference_test.go
// compares them).

// apiExtension is the key of the context extension that names the API of a virtual host or a route.
const apiExtension = "api"

// clientAddressKey is the key of the gRPC metadata in which Envoy sends the client's address. Envoy's configuration sets it
// (initial_metadata in deploy/envoy). A client cannot set it: Envoy copies no header of a request to this metadata. The
// CheckRequest itself holds only the peer address of the connection. With a load balancer in front of Envoy, this is the load
// balancer's address.
const clientAddressKey = "x-keywicket-client-address"

// request holds the fields of a CheckRequest that a check reads. Absent fields stay empty; no route matches an empty value. All
// strings are substrings of one copy of the message, so that none refers to memory that gRPC reuses.
type request struct {
	method, path, host        string
	rawHeaders, joinedHeaders authz.Fields // headers: one entry per value; or without encode_raw_headers, joined by commas
	extensions                authz.Fields
	address                   string           // peer address of the connection
	addressForm               protowire.Number // field number of the form in which the address was sent
	principal, certificate    string

	message string // empty if it is too large
	size    int    // size of the message in bytes

	key, value, rawValue string // of the map entry or the header that is being read
}

// reset clears the request, and keeps small slices for the next one.
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

// readAddress reads the address of a socket. An Address has one of three forms; if it has several, the last one applies.
func (r *request) readAddress(number protowire.Number, value string, depth int) error {
	if number < 1 || number > 3 {
		return nil
	}
	if number != r.addressForm {
		r.addressForm, r.address = number, ""
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

// readPair reads a header, or an entry of a map of strings, which has no raw value.
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
func (r *request) readMapEntry(to *authz.Fields, entry string, depth int) error {
	r.key, r.value = "", ""
	err := eachField(entry, depth, r.readPair)
	*to = append(*to, authz.HeaderValue{Name: r.key, Value: r.value})
	return err
}

// lastValues returns the last value of each name, as a map has it. It reuses the memory of fields.
func lastValues(fields authz.Fields) authz.Fields {
	const few = 32
	var index map[string]int // nil for a few fields, which are searched linearly
	if len(fields) > few {
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

// header returns the headers. If Envoy has encode_raw_headers, a repeated header has one entry per value. Otherwise Envoy joins
// the values with commas; no credential and no workspace reference contains a comma. Names are in lower case. Envoy sends them
// so, and another PEP may not.
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

// clientAddress returns the client's address from the metadata, or "" if there are several. Without metadata it returns the peer
// address of the connection.
func (r *request) clientAddress(ctx context.Context) string {
	switch values := metadata.ValueFromIncomingContext(ctx, clientAddressKey); len(values) {
	case 0:
		return r.address
	case 1:
		return values[0]
	}
	return ""
}

var (
	errMalformed = errors.New("the CheckRequest is malformed")
	errText      = errors.New("the CheckRequest has a string that is not UTF-8")
	errDepth     = errors.New("the CheckRequest is nested too deeply")
)

// eachField calls read for every field that has a length. It skips numbers and unknown groups, also if a field should have
// another type: proto.Unmarshal does the same. depth is the maximum number of levels of messages; read gets the remaining number.
func eachField(message string, depth int, read func(number protowire.Number, value string, depth int) error) error {
	depth--
	if depth < 0 {
		return errDepth
	}
	for message != "" {
		tag, n := varint(message)
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errMalformed
		}
		message = message[n:]
		number := protowire.Number(tag >> 3) //nolint:gosec // at most MaxValidNumber
		if kind := protowire.Type(tag & 7); kind != protowire.BytesType {
			if n = valueLength(number, kind, message); n < 0 {
				return errMalformed
			}
			message = message[n:]
			continue
		}
		size, n := varint(message)
		if n < 0 || size > uint64(len(message)-n) {
			return errMalformed
		}
		end := n + int(size) //nolint:gosec // at most the message's length
		if err := read(number, message[n:end], depth); err != nil {
			return err
		}
		message = message[end:]
	}
	return nil
}

// varint is protowire.ConsumeVarint for a string.
func varint(s string) (value uint64, n int) {
	if s != "" && s[0] < 0x80 {
		return uint64(s[0]), 1
	}
	for i := range min(len(s), 10) {
		value |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if i == 9 && s[i] > 1 {
				return 0, -1 // more than 64 bits
			}
			return value, i + 1
		}
	}
	return 0, -1
}

// valueLength returns the number of bytes of a field's value that is not a string, bytes or a message; negative if it is
// malformed.
func valueLength(number protowire.Number, kind protowire.Type, message string) int {
	n := -1
	switch kind {
	case protowire.VarintType:
		_, n = varint(message)
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.StartGroupType:
		n = groupLength(number, message)
	}
	if n > len(message) {
		return -1
	}
	return n
}

// groupLength returns the number of bytes of a group, including its end tag; negative if it is malformed.
func groupLength(number protowire.Number, message string) int {
	open := []protowire.Number{number} // field numbers of the groups that have not ended
	at := 0
	for len(open) > 0 {
		tag, n := varint(message[at:])
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > math.MaxInt32 {
			return -1
		}
		at += n
		number := protowire.Number(tag >> 3) //nolint:gosec // at most MaxInt32
		switch kind := protowire.Type(tag & 7); kind {
		case protowire.StartGroupType:
			if open = append(open, number); len(open) > protowire.DefaultRecursionLimit+1 {
				return -1
			}
		case protowire.EndGroupType:
			if number != open[len(open)-1] {
				return -1
			}
			open = open[:len(open)-1]
		case protowire.BytesType:
			size, n := varint(message[at:])
			if n < 0 || size > uint64(len(message)-at-n) {
				return -1
			}
			at += n + int(size) //nolint:gosec // at most the message's length
		default:
			if n = valueLength(number, kind, message[at:]); n < 0 {
				return -1
			}
			at += n
		}
	}
	return at
}

// checkUTF8 returns errText if the text is not UTF-8.
func checkUTF8(text string) error {
	if !utf8.ValidString(text) {
		return errText
	}
	return nil
}

// schema describes which fields of a message hold strings or messages. It validates the fields that a check does not read, so
// that read refuses the same messages as proto.Unmarshal.
type schema struct {
	fields []fieldSchema // by field number
}

type fieldSchema struct {
	text    bool
	message *schema
}

// schemas are the schemas of the messages of which a check reads some fields.
var schemas = func() (s struct{ attributes, peer, address, socket, request, http *schema }) {
	known := make(map[protoreflect.FullName]*schema)
	of := func(m interface{ ProtoReflect() protoreflect.Message }) *schema {
		return newSchema(m.ProtoReflect().Descriptor(), known)
	}
	s.attributes = of(&authv3.AttributeContext{})
	s.peer = of(&authv3.AttributeContext_Peer{})
	s.address = s.peer.fields[1].message
	s.socket = s.address.fields[1].message
	s.request = of(&authv3.AttributeContext_Request{})
	s.http = of(&authv3.AttributeContext_HttpRequest{})
	return s
}()

func newSchema(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*schema) *schema {
	if s, ok := known[d.FullName()]; ok {
		return s
	}
	s := &schema{}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		var field fieldSchema
		switch f.Kind() {
		case protoreflect.StringKind:
			field.text = true
		case protoreflect.MessageKind:
			field.message = newSchema(f.Message(), known)
		}
		for len(s.fields) <= int(f.Number()) {
			s.fields = append(s.fields, fieldSchema{})
		}
		s.fields[f.Number()] = field
	}
	return s
}

// validate returns an error if a field that a check does not read is malformed.
func (s *schema) validate(number protowire.Number, value string, depth int) error {
	if int(number) >= len(s.fields) {
		return nil
	}
	switch field := s.fields[number]; {
	case field.text:
		return checkUTF8(value)
	case field.message == nil:
		return nil
	default:
		return eachField(value, depth, field.message.validate)
	}
}
