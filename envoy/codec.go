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

// service is the ext_authz service, whose messages are read and written by this package instead of by objects that are made of
// them.
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
	b := mem.DefaultBufferPool().Get(typical)
	*b = s.(*Server).answer(ctx, r, (*b)[:0])
	return (*reply)(b), nil
}

// reply is a CheckResponse in bytes. The codec gives it back to gRPC's pool.
type reply []byte

// codec is gRPC's for protobuf, but for the two messages of a check.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(*reply); ok {
		return mem.BufferSlice{mem.NewBuffer((*[]byte)(b), mem.DefaultBufferPool())}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2]. A CheckRequest that cannot be read is no error here, for which gRPC would answer by
// itself: it is answered by the server.
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
	r.read(message.String())
	return nil
}
