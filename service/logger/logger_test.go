package logger

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/service/config"
)

// pipe records writes. Writers block while mu is locked.
type pipe struct {
	mu     sync.Mutex // locked: writers block
	writes []string
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = append(p.writes, string(b))
	return len(b), nil
}

// take returns the writes since its last call. The character "|" comes before each of them.
func (p *pipe) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := ""
	for _, w := range p.writes {
		all += "|" + w
	}
	p.writes = nil
	return all
}

// Lines in quick succession are written by one call, in order, and no line waits longer than logDelay.
func TestLogLinesAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{}
		log, flush := New(config.Log{Level: "info", Format: "text"}, p)
		for range 2 {
			log.Info("first")
			log.Info("second")
			log.Debug("not written")
			time.Sleep(logDelay - 1)
			log.Info("third")
			synctest.Wait()
			if early := p.take(); early != "" {
				t.Fatalf("written before logDelay: %q", early)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			got := p.take()
			if strings.Count(got, "|") != 1 || strings.Count(got, "\n") != 3 ||
				!strings.Contains(got, "msg=first\ntime=") || !strings.HasSuffix(got, "msg=third\n") {
				t.Fatalf("written: %q", got)
			}
		}
		log.Info("before")
		log.With("a", 1).WithGroup("g").Warn("at once")
		if got := p.take(); strings.Count(got, "|") != 1 || !strings.Contains(got, "msg=before\n") || !strings.HasSuffix(got, "msg=\"at once\" a=1\n") {
			t.Errorf("written: %q", got)
		}
		log.Info("last")
		flush()
		if got := p.take(); !strings.HasSuffix(got, "msg=last\n") {
			t.Errorf("written: %q", got)
		}
	})
}

// If the reader of the log is slow and the buffer is full, writers block. No line is lost, and the lines of each writer stay in
// order.
func TestFullLogBufferBlocksWriters(t *testing.T) {
	const writers, lines = 8, 3 * logBuffer / (8 * 100)
	p := &pipe{}
	w := newLineWriter(p)
	p.mu.Lock()
	var all sync.WaitGroup
	for n := range writers {
		all.Go(func() {
			for i := range lines {
				_, _ = fmt.Fprintf(w, "%d %d %s\n", n, i, strings.Repeat("x", 90))
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // the writers fill the buffer
	w.linesMu.Lock()
	if waiting := len(w.lines); waiting < logBuffer/2 || waiting > 2*logBuffer {
		t.Errorf("%d bytes are buffered", waiting)
	}
	w.linesMu.Unlock()
	p.mu.Unlock()
	all.Wait()
	_, _ = fmt.Fprintf(w, "0 %d %s\n", lines, strings.Repeat("x", 2*logWrite)) // longer than logWrite
	w.flush()
	next := make([]int, writers)
	written := p.take()
	for write := range strings.SplitSeq(written[1:], "|") {
		if !strings.HasSuffix(write, "\n") || len(write) > logWrite && strings.Count(write, "\n") > 1 {
			t.Errorf("%d bytes are written together, with %d lines", len(write), strings.Count(write, "\n"))
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(written, "|", "")) {
		var n, i int
		if _, err := fmt.Sscanf(line, "%d %d", &n, &i); err != nil || i != next[n] || len(line) < 94 {
			t.Fatalf("the line %q: %v, not number %d", line, err, next[n])
		}
		next[n]++
	}
	next[0]-- // the long line
	for n, got := range next {
		if got != lines {
			t.Errorf("writer %d: %d lines", n, got)
		}
	}
}
