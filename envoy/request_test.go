package envoy

import (
	"cmp"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keywicket/keywicket/authz"
)

// compareWithProto fails the test if request.read and proto.Unmarshal read different values, or if only one of them returns an
// error.
func compareWithProto(t *testing.T, message []byte) {
	t.Helper()
	got := request{message: string(message)}
	readErr := got.read()
	check := &authv3.CheckRequest{}
	if err := proto.Unmarshal(message, check); (err == nil) != (readErr == nil) {
		t.Fatalf("%.200x: proto.Unmarshal returns %v, and read returns %v", message, err, readErr)
	}
	if readErr != nil {
		return
	}
	actual, expected := got.authzRequest(t.Context()), referenceRequest(t.Context(), check)
	if second := got.header(); !slices.Equal(second, actual.Header) {
		t.Fatalf("%.200x: a second call returns the headers %v, not %v", message, second, actual.Header)
	}
	for _, r := range []*authz.Request{&actual, &expected} {
		sorted := func(fields authz.Fields) authz.Fields {
			fields = append(authz.Fields{}, fields...)
			slices.SortStableFunc(fields, func(a, b authz.HeaderValue) int {
				return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
			})
			return fields
		}
		r.Context = sorted(r.Context)
		if len(check.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders()) == 0 {
			r.Header = sorted(r.Header) // Go's maps have no order
		}
	}
	if len(actual.Header)+len(expected.Header) == 0 {
		actual.Header, expected.Header = nil, nil
	}
	if !reflect.DeepEqual(actual, expected) {
		t.Fatalf("%.200x:\nread          %+v\nproto.Message %+v", message, actual, expected)
	}
}

// capturedRequests returns CheckRequests that a real Envoy sent, with the configuration of deploy/envoy or with a minimal
// configuration.
func capturedRequests(t testing.TB) [][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/check-requests/*.bin")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d captured messages, %v", len(files), err)
	}
	var messages [][]byte
	for _, file := range files {
		message, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
	}
	return messages
}

// edgeCases returns messages that request.read and proto.Unmarshal might read differently. The variable `header` is a function
// that encodes a header with a raw value. The variable `joined` is a function that encodes an entry of the map `headers`, in which
// Envoy joins repeated values with commas.
func edgeCases() [][]byte {
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	text := func(number protowire.Number, value string) []byte { return field(number, []byte(value)) }
	http := func(parts ...[]byte) []byte { return field(1, field(4, field(2, slices.Concat(parts...)))) }
	header := func(name, value string) []byte { return field(13, field(1, append(text(1, name), text(3, value)...))) }
	joined := func(name, value string) []byte { return field(3, append(text(1, name), text(2, value)...)) }
	source := func(parts ...[]byte) []byte { return field(1, field(1, slices.Concat(parts...))) }
	nested := func(depth int, number protowire.Number) []byte {
		var b []byte
		for range depth {
			b = field(number, b)
		}
		return b
	}
	list := func(depth int) []byte { // google.protobuf.Value in filter_metadata, nested as lists
		var b []byte
		for range depth {
			b = field(6, field(1, b))
		}
		return field(1, field(11, field(1, append(text(1, "a"), field(2, field(1, append(text(1, "k"), field(2, b)...)))...))))
	}
	group := slices.Concat(protowire.AppendTag(nil, 7, protowire.StartGroupType), text(1, "\xff"), protowire.AppendTag(nil, 7, protowire.EndGroupType))
	messages := [][]byte{
		nil,
		http(text(2, "GET"), text(2, "POST")), // the last scalar applies
		http(text(2, "GET"), text(2, "")),     // an empty last scalar applies
		append(http(text(2, "GET")), http(text(4, "/x"))...),       // messages are merged
		append(http(header("a", "1")), http(header("a", "2"))...),  // lists are concatenated
		http(joined("a", "1"), joined("a", "2"), joined("A", "3")), // the last entry of a key applies
		http(joined("a", "1"), header("b", "2")),                   // raw headers take precedence
		http(field(13, nil), joined("a", "1")),
		http(header("A", "\xff")), http(joined("a", "\xff")), http(joined("\xff", "a")), http(text(2, "\xff")), http(text(11, "\xff")), http(text(12, "\xff")),
		http(field(3, nil)), http(field(3, text(2, "no key"))), http(field(3, append(text(1, "a"), text(3, "unknown\xff")...))),
		http(field(13, field(1, slices.Concat(text(1, "a"), text(2, "value"), text(3, ""))))),
		http(field(13, field(1, slices.Concat(text(1, "a"), text(2, "value"), text(3, "raw"), text(1, "b"))))),
		http(protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 7)), // a field of another type
		http(protowire.AppendFixed32(protowire.AppendTag(nil, 4, protowire.Fixed32Type), 7), text(4, "/x")),
		http(protowire.AppendTag(nil, 4, protowire.Fixed64Type)),
		http(group, text(2, "GET")), http(protowire.AppendTag(nil, 7, protowire.EndGroupType)), http(group[:len(group)-1]),
		{0x0a}, {0x0a, 0xff}, {0x08, 0x80}, {0x00}, {0x07}, {0x0a, 0x80, 0x00},
		append(bytesOf(0x80, 9), 0x01), append(append([]byte{0x08}, bytesOf(0xff, 9)...), 0x01), append(append([]byte{0x08}, bytesOf(0xff, 9)...), 0x02),
		protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber)<<3), 1),
		protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 1),
		source(field(1, field(1, text(2, "10.0.0.1")))),
		source(field(1, field(1, text(2, "10.0.0.1"))), field(1, field(2, text(1, "/pipe")))),
		source(field(1, append(field(2, nil), field(1, text(2, "10.0.0.2"))...))),
		source(field(1, field(1, text(2, "10.0.0.1"))), field(1, field(1, text(7, "ns")))),
		source(field(1, slices.Concat(field(1, text(2, "10.0.0.1")), field(3, text(1, "internal")), field(1, text(3, "x"))))),
		source(field(1, field(1, text(2, "\xff")))), source(text(4, "spiffe://a"), text(5, "PEM")), source(text(2, "\xff")), source(field(3, text(2, "\xff"))),
		field(1, field(10, append(text(1, "api"), text(2, "a")...))),
		field(1, append(field(10, append(text(1, "api"), text(2, "a")...)), field(10, append(text(1, "api"), text(2, "b")...))...)),
		field(1, field(12, text(1, "\xff"))), field(1, field(2, text(4, "\xff"))), field(1, field(11, field(2, append(text(1, "k"), field(2, text(1, "\xff"))...)))),
		field(1, field(13, field(1, append(text(1, "k"), field(2, field(1, append(text(1, "x"), field(2, text(3, "\xff"))...)))...)))),
	}
	for _, depth := range []int{10, 4995, 4996, 4997, 4998, 4999, 5000, 5001} {
		messages = append(messages, list(depth), nested(depth, 1))
	}
	for _, depth := range []int{9995, 9998, 9999, 10000, 10001, 10002} {
		b := nested(depth, 9)
		messages = append(messages, b, http(slices.Concat(bytesOf(9<<3|3, depth), bytesOf(9<<3|4, depth))))
	}
	return messages
}

func bytesOf(b byte, n int) []byte { return []byte(strings.Repeat(string([]byte{b}), n)) }

func TestReadMatchesProtoUnmarshal(t *testing.T) {
	for _, message := range slices.Concat(edgeCases(), capturedRequests(t)) {
		compareWithProto(t, message)
	}
}

// The test changes captured messages and edge cases at random: it replaces or deletes bytes, flips bits, truncates and concatenates.
func TestReadOfMutatedRequestsMatchesProtoUnmarshal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seeds := slices.DeleteFunc(slices.Concat(edgeCases(), capturedRequests(t)), func(m []byte) bool { return len(m) > 4096 })
	for range 20_000 {
		message := slices.Clone(seeds[r.IntN(len(seeds))])
		if r.IntN(4) == 0 {
			message = append(message, seeds[r.IntN(len(seeds))]...)
		}
		for range r.IntN(4) {
			if len(message) == 0 {
				break
			}
			switch i := r.IntN(len(message)); r.IntN(4) {
			case 0:
				message[i] = byte(r.Uint32())
			case 1:
				message[i] ^= 1 << r.IntN(8)
			case 2:
				message = message[:i]
			default:
				message = slices.Delete(message, i, i+1)
			}
		}
		compareWithProto(t, message)
	}
}

// FuzzWire checks that request.read and proto.Unmarshal read the same values from a CheckRequest, or both return an error.
func FuzzWire(f *testing.F) {
	for _, message := range slices.Concat(edgeCases(), capturedRequests(f)) {
		f.Add(message)
	}
	f.Fuzz(compareWithProto)
}

// A request must not refer to gRPC's buffer, which another message overwrites.
func TestRequestOutlivesItsBuffer(t *testing.T) {
	metadata, err := structpb.NewStruct(map[string]any{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": metadata}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/x", Host: "h", Headers: map[string]string{"a": "1"},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var r request
	if err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, &r); err != nil {
		t.Fatal(err)
	}
	clear(message)
	if err := r.read(); err != nil {
		t.Fatal(err)
	}
	if r.method != "GET" || r.path != "/x" || r.host != "h" || r.joinedHeaders[0] != (authz.HeaderValue{Name: "a", Value: "1"}) {
		t.Errorf("%+v", r)
	}
}
