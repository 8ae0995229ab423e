package main

import (
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	logDelay  = 10 * time.Millisecond // how long a line waits for others to be written with
	logBuffer = 64 << 10              // bytes of lines that may wait
)

// newLogger makes a logger whose lines are written together: with a system call for each line, a denial costs a tenth more.
// A line waits for [logDelay] at most, and no line is lost unless the process is killed. The caller calls flush at the end.
func newLogger(c logConfig, to io.Writer) (log *slog.Logger, flush func()) {
	lines := newLineWriter(to)
	options := &slog.HandlerOptions{Level: levels[c.Level]}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(lines, options)), lines.flush
	}
	return slog.New(slog.NewJSONHandler(lines, options)), lines.flush
}

// lineWriter collects lines and writes them together. While the reader of the log is slow and the buffer is full, Write waits,
// as it would without a buffer.
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

// Write implements [io.Writer]. An error of the writer below is not told: nobody could be told of it but this log.
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
	if len(lines) > 0 {
		_, _ = w.to.Write(lines)
	}
	w.spare = lines
}
