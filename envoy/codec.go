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

// service is the ext_authz service. This package reads and writes its messages itself, without generated types. The server has no
// interceptors; one that is added would not see checks.
var service = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handle}},
	Metadata:    authv3.Authorization_ServiceDesc.Metadata,
}

var requests = sync.Pool{New: func() any { return new(request) }}

// handle answers one check. decode has the codec read the message.
func handle(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's order
	r := requests.Get().(*request)
	defer func() {
		r.reset()
		requests.Put(r)
	}()
	if err := decode(r); err != nil {
		return nil, err
	}
	const typical = 2 << 10 // bytes of an answer
	pool := mem.DefaultBufferPool()
	room := pool.Get(typical)
	answer := s.(*Server).answer(ctx, r, (*room)[:0])
	if cap(answer) != cap(*room) { // append has moved it
		pool.Put(room)
		return mem.SliceBuffer(answer), nil
	}
	*room = answer
	return mem.NewBuffer(room, pool), nil
}

// codec is gRPC's for protobuf, but for the two messages of a check.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if answer, ok := v.(mem.Buffer); ok { // of a check
		return mem.BufferSlice{answer}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2]. It copies a CheckRequest, which [Server.answer] reads: one that cannot be read is then
// answered with a denial. gRPC would answer with an error.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if r.size = data.Len(); r.size > MaxMessage {
		return nil
	}
	var message strings.Builder // the data is gRPC's again as soon as this returns
	message.Grow(r.size)
	for _, part := range data {
		_, _ = message.Write(part.ReadOnlyData()) // never fails
	}
	r.message = message.String()
	return nil
}
