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

// take returns the writes since its previous call. It adds the character "|" before each write.
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

// The logger writes the lines of a short time with one call, in their order. No line waits longer than maxDelay.
func TestLogLinesAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{}
		log, flush := New(config.Log{Level: "info", Format: "text"}, p)
		for range 2 {
			log.Info("first")
			log.Info("second")
			log.Debug("not written")
			time.Sleep(maxDelay - 1)
			log.Info("third")
			synctest.Wait()
			if early := p.take(); early != "" {
				t.Fatalf("written before maxDelay: %q", early)
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

// If the buffer is full and the reader of the log is slow, writers block. No line is lost, and the lines of each writer stay in
// their order.
func TestFullLogBufferBlocksWriters(t *testing.T) {
	const writers, lines = 8, 3 * maxBuffered / (8 * 100)
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
	time.Sleep(50 * time.Millisecond) // in this time, the writers fill the buffer
	w.linesMu.Lock()
	if waiting := len(w.lines); waiting < maxBuffered/2 || waiting > 2*maxBuffered {
		t.Errorf("%d bytes are buffered", waiting)
	}
	w.linesMu.Unlock()
	p.mu.Unlock()
	all.Wait()
	_, _ = fmt.Fprintf(w, "0 %d %s\n", lines, strings.Repeat("x", 2*maxWrite)) // longer than maxWrite
	w.flush()
	next := make([]int, writers)
	written := p.take()
	for write := range strings.SplitSeq(written[1:], "|") {
		if !strings.HasSuffix(write, "\n") || len(write) > maxWrite && strings.Count(write, "\n") > 1 {
			t.Errorf("%d bytes are written together, with %d lines", len(write), strings.Count(write, "\n"))
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(written, "|", "")) {
		var n, i int
		if _, err := fmt.Sscanf(line, "%d %d", &n, &i); err != nil || i != next[n] || len(line) < 94 {
			t.Fatalf("the line %q is not line number %[3]d of its writer: %[2]v", line, err, next[n])
		}
		next[n]++
	}
	next[0]-- // the line that is longer than maxWrite is not one of the writer's usual lines
	for n, got := range next {
		if got != lines {
			t.Errorf("writer %d: %d lines", n, got)
		}
	}
}
