package envoy

import (
	"context"

	"google.golang.org/grpc/mem"
)

// Bytes answers a CheckRequest in bytes by a CheckResponse in bytes, as the server does behind gRPC.
func (s *Server) Bytes(ctx context.Context, message []byte) mem.BufferSlice {
	c := newCodec()
	decode := func(v any) error { return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, v) }
	reply, err := handle(s, ctx, decode, nil)
	if err != nil {
		panic(err)
	}
	data, err := c.Marshal(reply)
	if err != nil {
		panic(err)
	}
	return data
}
