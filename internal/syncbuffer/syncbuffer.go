// Package syncbuffer collects the output of several goroutines or processes of a test. The test may read the output while the
// goroutines or processes write.
package syncbuffer

import (
	"bytes"
	"sync"
)

// Buffer is a buffer that one goroutine may read while other goroutines write to it.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns the text written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
