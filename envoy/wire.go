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

// This file reads a CheckRequest from its bytes. A check needs a tenth of what is in the message, and making objects of all
// of it would cost more than the decision. What is read, and what is refused, is what proto.Unmarshal reads and refuses
// (reference_test.go compares them).

// apiExtension is the key of the context extension that names the API of a virtual host or a route.
const apiExtension = "api"

// clientAddress is the key of the gRPC metadata in which Envoy sends the client's address. Envoy's configuration sets it
// (initial_metadata in deploy/envoy), and nothing that a client sends becomes metadata of a check. The CheckRequest itself
// has the connection's other end alone, which is a load balancer's where one stands in front of Envoy.
const clientAddress = "x-keywicket-client-address"

// request is what a check reads of a CheckRequest. What is missing stays empty, and matches nothing. All strings are parts
// of one copy of the message, so that none of them is in memory that gRPC uses again.
type request struct {
	method, path, host     string
	raw, joined            authz.Fields // headers: as they came, or without encode_raw_headers
	extensions             authz.Fields
	address                string // of the connection's other end
	addressed              protowire.Number
	principal, certificate string

	message string // empty if it is too large
	size    int    // of the message

	key, value, rawValue string // of the map's entry or the header that is being read
}

// reset forgets the request, and keeps the room for the next one, if it is not much.
func (r *request) reset() {
	emptied := func(f authz.Fields) authz.Fields {
		const most = 256 // fields
		if cap(f) > most {
			return nil
		}
		clear(f)
		return f[:0]
	}
	*r = request{raw: emptied(r.raw), joined: emptied(r.joined), extensions: emptied(r.extensions)}
}

// read reads the CheckRequest.
func (r *request) read() error {
	err := each(r.message, protowire.DefaultRecursionLimit, r.readCheck)
	r.extensions, r.joined = asMap(r.extensions), asMap(r.joined)
	for i := range r.joined {
		r.joined[i].Name = strings.ToLower(r.joined[i].Name)
	}
	return err
}

// The numbers of fields are those of attribute_context.proto, external_auth.proto, address.proto and base.proto of Envoy.

func (r *request) readCheck(number protowire.Number, value string, depth int) error {
	if number == 1 {
		return each(value, depth, r.readAttributes)
	}
	return nil
}

func (r *request) readAttributes(number protowire.Number, value string, depth int) error {
	switch number {
	case 1:
		return each(value, depth, r.readSource)
	case 4:
		return each(value, depth, r.readRequest)
	case 10:
		return r.readEntry(&r.extensions, value, depth)
	}
	return shapes.attributes.skip(number, value, depth)
}

func (r *request) readSource(number protowire.Number, value string, depth int) error {
	switch number {
	case 1:
		return each(value, depth, r.readAddress)
	case 4:
		r.principal = value
	case 5:
		r.certificate = value
	}
	return shapes.peer.skip(number, value, depth)
}

// readAddress takes the address of a socket. Address has one of three forms, and the last one counts.
func (r *request) readAddress(number protowire.Number, value string, depth int) error {
	if number < 1 || number > 3 {
		return nil
	}
	if number != r.addressed {
		r.addressed, r.address = number, ""
	}
	if number > 1 {
		return shapes.address.skip(number, value, depth)
	}
	return each(value, depth, func(number protowire.Number, value string, depth int) error {
		if number == 2 {
			r.address = value
		}
		return shapes.socket.skip(number, value, depth)
	})
}

func (r *request) readRequest(number protowire.Number, value string, depth int) error {
	if number == 2 {
		return each(value, depth, r.readHTTP)
	}
	return shapes.request.skip(number, value, depth)
}

func (r *request) readHTTP(number protowire.Number, value string, depth int) error {
	switch number {
	case 2:
		r.method = value
	case 3:
		return r.readEntry(&r.joined, value, depth)
	case 4:
		r.path = value
	case 5:
		r.host = value
	case 13:
		return each(value, depth, func(number protowire.Number, value string, depth int) error {
			if number != 1 {
				return nil
			}
			r.key, r.value, r.rawValue = "", "", ""
			err := each(value, depth, r.readPair)
			if r.rawValue != "" {
				r.value = r.rawValue
			}
			r.raw = append(r.raw, authz.HeaderValue{Name: strings.ToLower(r.key), Value: r.value})
			return err
		})
	}
	return shapes.http.skip(number, value, depth)
}

// readPair reads a header, or an entry of a map of texts, which has no raw value.
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
	return valid(value)
}

// readEntry reads an entry of a map.
func (r *request) readEntry(to *authz.Fields, entry string, depth int) error {
	r.key, r.value = "", ""
	err := each(entry, depth, r.readPair)
	*to = append(*to, authz.HeaderValue{Name: r.key, Value: r.value})
	return err
}

// asMap keeps the last value of each name, as a map does.
func asMap(fields authz.Fields) authz.Fields {
	const few = 32
	var places map[string]int // of many; few are searched
	if len(fields) > few {
		places = make(map[string]int, len(fields))
	}
	kept := fields[:0]
	for _, f := range fields {
		i, there := places[f.Name]
		if places == nil {
			i = slices.IndexFunc(kept, func(k authz.HeaderValue) bool { return k.Name == f.Name })
			there = i >= 0
		}
		if there {
			kept[i].Value = f.Value
			continue
		}
		if places != nil {
			places[f.Name] = len(kept)
		}
		kept = append(kept, f)
	}
	clear(fields[len(kept):])
	return kept
}

// header has every value of a repeated header on its own, as long as Envoy has encode_raw_headers: without it Envoy
// joins them by commas, which no credential and no workspace reference holds. Names are in lower case, as Envoy sends them;
// another PEP may not.
func (r *request) header() authz.Fields {
	if len(r.raw) > 0 {
		return r.raw
	}
	return r.joined
}

// forAuthorizer is the request as package authz has it.
func (r *request) forAuthorizer(ctx context.Context) authz.Request {
	api, _ := r.extensions.Get(apiExtension)
	return authz.Request{
		API:     api,
		Method:  r.method,
		Path:    r.path,
		Host:    r.host,
		Header:  r.header(),
		Context: r.extensions,
		Source:  authz.Connection{Address: r.client(ctx), Principal: r.principal, Certificate: r.certificate},
	}
}

// client returns the client's address from the metadata, and nothing where there are several. Without metadata it is the address
// of the connection's other end.
func (r *request) client(ctx context.Context) string {
	switch values := metadata.ValueFromIncomingContext(ctx, clientAddress); len(values) {
	case 0:
		return r.address
	case 1:
		return values[0]
	}
	return ""
}

var (
	errMalformed = errors.New("the CheckRequest is malformed")
	errText      = errors.New("the CheckRequest has a text that is not UTF-8")
	errDepth     = errors.New("the CheckRequest is nested too deeply")
)

// each calls read for every field of a message that has a length. The others, numbers and unknown groups, are skipped, also
// where a field should be of another type: this is how proto.Unmarshal treats them. depth is how many levels of messages there
// may be; read gets what is left.
func each(message string, depth int, read func(number protowire.Number, value string, depth int) error) error {
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
			if n = length(number, kind, message); n < 0 {
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

// length is how many bytes a field's value has that is no text, bytes or message; negative for a malformed one.
func length(number protowire.Number, kind protowire.Type, message string) int {
	n := -1
	switch kind {
	case protowire.VarintType:
		_, n = varint(message)
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.StartGroupType:
		n = group(number, message)
	}
	if n > len(message) {
		return -1
	}
	return n
}

// group is how many bytes a group has, with its end; negative for a malformed one.
func group(number protowire.Number, message string) int {
	begun := []protowire.Number{number} // and not ended
	at := 0
	for len(begun) > 0 {
		tag, n := varint(message[at:])
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > math.MaxInt32 {
			return -1
		}
		at += n
		number := protowire.Number(tag >> 3) //nolint:gosec // at most MaxInt32
		switch kind := protowire.Type(tag & 7); kind {
		case protowire.StartGroupType:
			if begun = append(begun, number); len(begun) > protowire.DefaultRecursionLimit+1 {
				return -1
			}
		case protowire.EndGroupType:
			if number != begun[len(begun)-1] {
				return -1
			}
			begun = begun[:len(begun)-1]
		case protowire.BytesType:
			size, n := varint(message[at:])
			if n < 0 || size > uint64(len(message)-at-n) {
				return -1
			}
			at += n + int(size) //nolint:gosec // at most the message's length
		default:
			if n = length(number, kind, message[at:]); n < 0 {
				return -1
			}
			at += n
		}
	}
	return at
}

func valid(text string) error {
	if !utf8.ValidString(text) {
		return errText
	}
	return nil
}

// shape tells which fields of a message hold texts or messages. Those that a check does not read are looked at by it, so that a
// message is refused that proto.Unmarshal would refuse.
type shape struct {
	fields []fieldShape // by number
}

type fieldShape struct {
	text    bool
	message *shape
}

// shapes are those of messages of which some fields are read.
var shapes = func() (s struct{ attributes, peer, address, socket, request, http *shape }) {
	known := make(map[protoreflect.FullName]*shape)
	of := func(m interface{ ProtoReflect() protoreflect.Message }) *shape {
		return newShape(m.ProtoReflect().Descriptor(), known)
	}
	s.attributes = of(&authv3.AttributeContext{})
	s.peer = of(&authv3.AttributeContext_Peer{})
	s.address = s.peer.fields[1].message
	s.socket = s.address.fields[1].message
	s.request = of(&authv3.AttributeContext_Request{})
	s.http = of(&authv3.AttributeContext_HttpRequest{})
	return s
}()

func newShape(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s, ok := known[d.FullName()]; ok {
		return s
	}
	s := &shape{}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		var of fieldShape
		switch f.Kind() {
		case protoreflect.StringKind:
			of.text = true
		case protoreflect.MessageKind:
			of.message = newShape(f.Message(), known)
		}
		for len(s.fields) <= int(f.Number()) {
			s.fields = append(s.fields, fieldShape{})
		}
		s.fields[f.Number()] = of
	}
	return s
}

// skip looks at a field that is not read.
func (s *shape) skip(number protowire.Number, value string, depth int) error {
	if int(number) >= len(s.fields) {
		return nil
	}
	switch of := s.fields[number]; {
	case of.text:
		return valid(value)
	case of.message == nil:
		return nil
	default:
		return each(value, depth, of.message.skip)
	}
}
