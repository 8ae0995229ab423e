package envoy

import (
	"context"

	"google.golang.org/grpc/mem"
)

// Bytes reads a CheckRequest in wire format and returns the CheckResponse in wire format, as the server does for gRPC.
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
