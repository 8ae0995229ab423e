package envoy

import (
	"context"
	"strings"
	"sync"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// service is the ext_authz service. This package reads and writes its messages without generated types. The server has no
// interceptors, so handle calls none.
var service = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handle}},
	Metadata:    authv3.Authorization_ServiceDesc.Metadata,
}

var requestPool = sync.Pool{New: func() any { return new(request) }}

// handle answers one check. The parameter `decode` is a function that calls the codec. The codec copies the message.
func handle(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's order
	r := requestPool.Get().(*request)
	defer func() {
		r.reset()
		requestPool.Put(r)
	}()
	if err := decode(r); err != nil {
		return nil, err
	}
	const typicalSize = 2 << 10 // bytes of a response
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(typicalSize)
	answer := s.(*Server).answer(ctx, r, (*buffer)[:0])
	if cap(answer) != cap(*buffer) { // append has allocated a larger buffer
		pool.Put(buffer)
		return mem.SliceBuffer(answer), nil
	}
	*buffer = answer
	return mem.NewBuffer(buffer, pool), nil
}

// codec replaces gRPC's codec for protobuf. It encodes and decodes the two messages of a check itself, and passes all other
// messages to gRPC's codec.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if answer, ok := v.(mem.Buffer); ok { // the response of a check
		return mem.BufferSlice{answer}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2]. It copies a CheckRequest without parsing it. [Server.answer] parses the copy, and
// answers a malformed message with a denial. If Unmarshal returned an error, gRPC would answer with an error instead of a denial.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if r.size = data.Len(); r.size > MaxMessage {
		return nil
	}
	var message strings.Builder // gRPC reuses the memory of data after this function returns
	message.Grow(r.size)
	for _, part := range data {
		_, _ = message.Write(part.ReadOnlyData()) // never fails
	}
	r.message = message.String()
	return nil
}
