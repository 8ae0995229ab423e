package progress

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestProgressIsDrawnForATerminal(t *testing.T) {
	var screen bytes.Buffer
	now := time.Unix(0, 0)
	read := int64(0)
	p := &Bar{w: &screen, size: 1000, read: func() int64 { return read }, now: func() time.Time { return now }}
	for range 500 {
		p.Row()
		now, read = now.Add(time.Millisecond), read+1
	}
	p.DrawStoring()
	p.End()
	drawn := strings.Split(screen.String(), "\r\x1b[K")
	want := []string{
		"", "[==                  ]  10 %  101 rows, 1010 rows/s",
		"[====                ]  20 %  201 rows, 1005 rows/s", "[======              ]  30 %  301 rows, 1003 rows/s",
		"[========            ]  40 %  401 rows, 1002 rows/s", "500 rows, 1000 rows/s; checking and storing", "",
	}
	if !slices.Equal(drawn, want) {
		t.Errorf("got %q, want %q", drawn, want)
	}
	screen.Reset()
	p = &Bar{w: &screen, now: func() time.Time { return now }}
	p.Row()
	now = now.Add(time.Second)
	p.Row()
	if got := screen.String(); got != "\r\x1b[K2 rows, 2 rows/s" {
		t.Errorf("for an input of unknown size: got %q", got)
	}
	if terminal(&screen) != nil {
		t.Error("the function terminal accepts a buffer")
	}
	p = New(nil, 0, nil) // draws nothing
	p.Row()
	p.DrawStoring()
	p.End()
}
