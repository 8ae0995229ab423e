package envoy

import (
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// schema describes which fields of a message contain strings or messages. Fields that a check does not read are validated too, so
// that request.read refuses the same messages as proto.Unmarshal.
type schema struct {
	fields []fieldSchema // by field number
}

type fieldSchema struct {
	text    bool
	message *schema
}

// schemas are the schemas of the messages in which a check reads only some of the fields.
var schemas = func() (s struct{ attributes, peer, address, socket, request, http *schema }) {
	byName := make(map[protoreflect.FullName]*schema)
	schemaOf := func(m interface{ ProtoReflect() protoreflect.Message }) *schema {
		return newSchema(m.ProtoReflect().Descriptor(), byName)
	}
	s.attributes = schemaOf(&authv3.AttributeContext{})
	s.peer = schemaOf(&authv3.AttributeContext_Peer{})
	s.address = s.peer.fields[1].message
	s.socket = s.address.fields[1].message
	s.request = schemaOf(&authv3.AttributeContext_Request{})
	s.http = schemaOf(&authv3.AttributeContext_HttpRequest{})
	return s
}()

func newSchema(d protoreflect.MessageDescriptor, byName map[protoreflect.FullName]*schema) *schema {
	if s, ok := byName[d.FullName()]; ok {
		return s
	}
	s := &schema{}
	byName[d.FullName()] = s
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		var field fieldSchema
		switch f.Kind() {
		case protoreflect.StringKind:
			field.text = true
		case protoreflect.MessageKind:
			field.message = newSchema(f.Message(), byName)
		}
		for len(s.fields) <= int(f.Number()) {
			s.fields = append(s.fields, fieldSchema{})
		}
		s.fields[f.Number()] = field
	}
	return s
}

// validate returns an error if the value of the field is a malformed message, or should be a string and is not UTF-8.
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
