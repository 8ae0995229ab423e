package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	logDelay  = 10 * time.Millisecond // how long a line waits for others to be written with
	logBuffer = 64 << 10              // bytes of lines that may wait
	// Several processes may write to one pipe. The system does not mix writes of up to 4 KiB (PIPE_BUF).
	logWrite = 4 << 10
)

// newLogger makes a logger that writes several lines with one system call: one for each line would make a denial cost a tenth
// more. A line of debug or info waits up to [logDelay]. The lines of a higher level, and all before them, are written at once. A
// process that crashes loses what waits. The caller calls flush at the end.
func newLogger(c logConfig, to io.Writer) (log *slog.Logger, flush func()) {
	lines := newLineWriter(to)
	options := &slog.HandlerOptions{Level: levels[c.Level]}
	var format slog.Handler = slog.NewJSONHandler(lines, options)
	if c.Format == "text" {
		format = slog.NewTextHandler(lines, options)
	}
	return slog.New(promptHandler{format, lines}), lines.flush
}

// promptHandler writes what is more than information at once.
type promptHandler struct {
	slog.Handler
	lines *lineWriter
}

// Handle implements [slog.Handler].
func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level > slog.LevelInfo {
		h.lines.flush()
	}
	return err
}

// WithAttrs implements [slog.Handler].
func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attrs), h.lines}
}

// WithGroup implements [slog.Handler].
func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.lines}
}

// lineWriter collects lines and writes them together. While the log is not read and the buffer is full, Write waits, as it would
// without a buffer.
type lineWriter struct {
	to      io.Writer
	delay   *time.Timer
	waiting sync.Mutex // guards lines
	lines   []byte
	writing sync.Mutex // guards spare, and keeps the order of the lines
	spare   []byte
}

func newLineWriter(to io.Writer) *lineWriter {
	w := &lineWriter{to: to}
	w.delay = time.AfterFunc(logDelay, w.flush)
	w.delay.Stop()
	return w
}

// Write implements [io.Writer]. An error of the writer below is not told: there is no other place to log it.
func (w *lineWriter) Write(line []byte) (int, error) {
	w.waiting.Lock()
	first := len(w.lines) == 0
	w.lines = append(w.lines, line...)
	full := len(w.lines) >= logBuffer
	w.waiting.Unlock()
	switch {
	case full:
		w.flush()
	case first:
		w.delay.Reset(logDelay)
	}
	return len(line), nil
}

func (w *lineWriter) flush() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.waiting.Lock()
	lines := w.lines
	w.lines = w.spare[:0]
	w.waiting.Unlock()
	w.spare = lines
	for len(lines) > 0 {
		n := together(lines)
		_, _ = w.to.Write(lines[:n])
		lines = lines[n:]
	}
}

// together is how many bytes of the lines are written by one call: whole lines, one at least.
func together(lines []byte) int {
	if len(lines) <= logWrite {
		return len(lines)
	}
	if end := bytes.LastIndexByte(lines[:logWrite], '\n'); end >= 0 {
		return end + 1
	}
	if end := bytes.IndexByte(lines, '\n'); end >= 0 {
		return end + 1
	}
	return len(lines)
}
