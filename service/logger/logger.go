// Package logger writes the log of a process.
package logger

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/keywicket/keywicket/service/config"
)

const (
	maxDelay    = 10 * time.Millisecond // maximum time for which a line waits in the buffer
	maxBuffered = 64 << 10              // size of the buffer in bytes: if the lines in it reach this size, they are written
	// maxWrite is the maximum size of one write, in bytes. Several processes may write to one pipe, and only writes of up to 4
	// KiB (PIPE_BUF) are atomic.
	maxWrite = 4 << 10
)

// New returns a logger that writes several lines with one system call. Each denied check writes a line, so one system call for each
// line would need more CPU time. A line of level debug or info waits up to [maxDelay]. A line of a higher level is written
// immediately, together with all waiting lines. If the process crashes, the waiting lines are lost. The caller must call flush
// before the process exits.
func New(c config.Log, to io.Writer) (log *slog.Logger, flush func()) {
	lines := newLineWriter(to)
	options := &slog.HandlerOptions{Level: c.MinLevel()}
	var format slog.Handler = slog.NewJSONHandler(lines, options)
	if c.Format == "text" {
		format = slog.NewTextHandler(lines, options)
	}
	return slog.New(flushingHandler{format, lines}), lines.flush
}

// flushingHandler flushes after each record above level info.
type flushingHandler struct {
	slog.Handler
	lines *lineWriter
}

// Handle implements [slog.Handler].
func (h flushingHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level > slog.LevelInfo {
		h.lines.flush()
	}
	return err
}

// WithAttrs implements [slog.Handler].
func (h flushingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return flushingHandler{h.Handler.WithAttrs(attrs), h.lines}
}

// WithGroup implements [slog.Handler].
func (h flushingHandler) WithGroup(name string) slog.Handler {
	return flushingHandler{h.Handler.WithGroup(name), h.lines}
}

// lineWriter buffers lines and writes several lines together. If the buffer is full and the reader of the log is slow, Write
// blocks. A write without a buffer would also block.
type lineWriter struct {
	to      io.Writer
	delay   *time.Timer
	linesMu sync.Mutex // guards lines
	lines   []byte
	writeMu sync.Mutex // guards spare, and serializes the writes to keep the order of lines
	spare   []byte
}

func newLineWriter(to io.Writer) *lineWriter {
	w := &lineWriter{to: to}
	w.delay = time.AfterFunc(maxDelay, w.flush)
	w.delay.Stop()
	return w
}

// Write implements [io.Writer]. It ignores errors of the underlying writer, because there is no other place to log these errors.
func (w *lineWriter) Write(line []byte) (int, error) {
	w.linesMu.Lock()
	first := len(w.lines) == 0
	w.lines = append(w.lines, line...)
	full := len(w.lines) >= maxBuffered
	w.linesMu.Unlock()
	switch {
	case full:
		w.flush()
	case first:
		w.delay.Reset(maxDelay)
	}
	return len(line), nil
}

func (w *lineWriter) flush() {
	w.writeMu.Lock()
	defer w.writeMu.Unlock()
	w.linesMu.Lock()
	lines := w.lines
	w.lines = w.spare[:0]
	w.linesMu.Unlock()
	w.spare = lines
	for len(lines) > 0 {
		n := writeLength(lines)
		_, _ = w.to.Write(lines[:n])
		lines = lines[n:]
	}
}

// writeLength returns the number of bytes for the next write: whole lines of at most [maxWrite] bytes in total, or one longer
// line.
func writeLength(lines []byte) int {
	if len(lines) <= maxWrite {
		return len(lines)
	}
	if end := bytes.LastIndexByte(lines[:maxWrite], '\n'); end >= 0 {
		return end + 1
	}
	if end := bytes.IndexByte(lines, '\n'); end >= 0 {
		return end + 1
	}
	return len(lines)
}
