package main

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestImportEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silent, end := io.Pipe()
	defer func() { _ = end.Close() }()
	r := interruptible(ctx, silent)
	cancel()
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
