// Package progress shows on a terminal how much of an input has been read.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Bar is a progress line on a terminal.
type Bar struct {
	w              io.Writer // nil: not a terminal, nothing is drawn
	size           int64     // size of the input in bytes; 0: unknown
	read           func() int64
	now            func() time.Time
	started, drawn time.Time
	rows           int
}

// New returns a bar on w, or a bar that draws nothing if w is not a terminal. The parameter `size` is the size of the input in
// bytes, or 0 if the size is unknown. The parameter `read` is a function that returns the number of bytes that have been read.
func New(w io.Writer, size int64, read func() int64) *Bar {
	return &Bar{w: terminal(w), size: size, read: read, now: time.Now}
}

// Row counts one row. It draws the line at most ten times per second.
func (p *Bar) Row() {
	if p.w == nil {
		return
	}
	p.rows++
	now := p.now()
	if p.started.IsZero() {
		p.started, p.drawn = now, now
	}
	if now.Sub(p.drawn) >= 100*time.Millisecond {
		p.drawn = now
		p.draw(p.bar() + p.count())
	}
}

// DrawStoring draws the line for the last phase: the whole input has been read, and the database checks and stores the rows.
func (p *Bar) DrawStoring() {
	if p.w != nil {
		p.draw(p.count() + "; checking and storing")
	}
}

// End clears the line for the next output.
func (p *Bar) End() {
	if p.w != nil {
		p.draw("")
	}
}

func (p *Bar) bar() string {
	if p.size == 0 {
		return ""
	}
	const width = 20
	part := min(float64(p.read())/float64(p.size), 1)
	done := int(part * width)
	return fmt.Sprintf("[%s%s] %3.0f %%  ", strings.Repeat("=", done), strings.Repeat(" ", width-done), 100*part)
}

func (p *Bar) count() string {
	rate := 0.0
	if elapsed := p.now().Sub(p.started); p.rows > 0 && elapsed > 0 {
		rate = float64(p.rows) / elapsed.Seconds()
	}
	return fmt.Sprintf("%d rows, %.0f rows/s", p.rows, rate)
}

// draw clears the line and writes text.
func (p *Bar) draw(text string) { fmt.Fprintf(p.w, "\r\x1b[K%s", text) }

// terminal returns w if it is a terminal, or nil.
func terminal(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return f
}
