package operator

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestImportEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	input, inputWriter := io.Pipe()
	defer func() { _ = inputWriter.Close() }()
	r := interruptible(ctx, input)
	cancel()
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
